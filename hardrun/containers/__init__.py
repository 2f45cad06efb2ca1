"""Named containers: requests that can be started again, without a daemon.

    asked.py    what is kept of a request, and the Decision that it gets today
    launch.py   starts: from the lock to the command's first instruction
    manage.py   create, list, stop, kill, wait, remove
"""
