"""A Linux board that is a process: QEMU, with Debian's kernel and busybox. See README.md."""
