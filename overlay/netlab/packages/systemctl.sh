#!/bin/sh
# Stands for systemctl on a node without systemd: notes each call, and starts
# and stops units as their files say, as far as that takes.
set -eu
# For a test of what packages do when nothing can be done here.
[ ! -e /run/systemctl.fails ] || exit 1
echo "$*" >>/run/systemctl.log
[ "$1" != --no-block ] || shift
verb=$1
shift
[ "${1-}" != --quiet ] || shift
[ "$verb" = daemon-reload ] || [ $# -gt 0 ]

main_pid() { cat "/run/units/$1" 2>/dev/null || echo 0; }

running() { [ "$(main_pid "$1")" -ne 0 ] && kill -0 "$(main_pid "$1")" 2>/dev/null; }

setting() { sed -n "s/^$2=-\{0,1\}//p" "/usr/lib/systemd/system/$1"; }

start() {
	mkdir -p /run/units
	(
		set -a
		# shellcheck disable=SC1090 # as systemd: variables of a file that may be missing
		[ ! -e "$(setting "$1" EnvironmentFile)" ] || . "$(setting "$1" EnvironmentFile)"
		set +a
		# shellcheck disable=SC2046 # a command line
		exec setsid $(setting "$1" ExecStart) >>"/run/units/$1.log" 2>&1 </dev/null
	) &
	echo $! >"/run/units/$1"
}

stop() {
	kill "$(main_pid "$1")"
	while running "$1"; do sleep 0.05; done
	rm "/run/units/$1"
}

for unit in "$@"; do
	unit=${unit%.service}
	case $unit in *.timer) ;; *) unit=$unit.service ;; esac
	case $verb in
	start) running "$unit" || start "$unit" ;;
	stop) ! running "$unit" || stop "$unit" ;;
	enable)
		wants=$(setting "$unit" WantedBy)
		mkdir -p "/etc/systemd/system/$wants.wants"
		ln -s "/usr/lib/systemd/system/$unit" "/etc/systemd/system/$wants.wants/$unit"
		;;
	is-enabled) [ -e "/etc/systemd/system/$(setting "$unit" WantedBy).wants/$unit" ] ;;
	try-restart) ! running "$unit" || { stop "$unit" && start "$unit"; } ;;
	*) echo "systemctl.sh does not know $verb" >&2 && exit 1 ;;
	esac
done
