"""Where stages keep their output: folders named by signatures, ledgers, files that are whole or not there."""
