"""The pages in Debian's Chromium: journeys of a person, keyboard, accessibility and errors."""
