"""The operating system around the daemon: its service manager, sockets, sleep, log, and how late the loop is."""
