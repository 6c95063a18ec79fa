# `make serve`: serve and beat every minute, both again after each change of the code.
# Ctrl-C or SIGTERM ends both. When one of them ends, or make is killed, so do the others.

# Debuggers in your views read from the terminal. A job in the background would not.
exec 3<&0
.venv/bin/pserve --reload development.ini <&3 &
server=$!
# After a change, running flows get heartbeat.shutdown_grace to end.
.venv/bin/hupper -q --shutdown-interval 25 -m {{cookiecutter.project_slug}}.heartbeat \
    beat --every 1m -c development.ini &
scheduler=$!

end() {
    kill $server $scheduler 2>/dev/null
}
trap end INT TERM HUP

while kill -0 $server && kill -0 $scheduler && kill -0 $PPID; do
    sleep 1
done 2>/dev/null
end
# A further signal interrupts `wait`, which is 0 when both have ended.
until wait; do :; done
