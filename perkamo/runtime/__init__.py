"""The library's interface to the machine: clocks, event loops, threads, guards around forks, locks on files."""
