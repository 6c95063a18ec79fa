"""The first hour of a newcomer: all that both README files tell to type, in order."""
