"""Whether what is in deploy/ is right: run where it can be run here, else checked by linters."""
