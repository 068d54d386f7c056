"""What the library needs of the machine: clocks, event loops, threads, what a fork must wait for, locks on files."""
