"""One file a command of `lvg-train`; each has the click command `command`."""
