"""Who plays independent tasks: this process, processes of this machine, or a Ray cluster."""
