// Package packages is the suite of the Debian packages: the real dpkg installs,
// upgrades, removes and purges them on a node of netlab, whose file system is
// its own as far as packages write to it, while pods talk. It has tests only.
// A script takes the place of systemctl and runs what the installed unit says.
package packages
