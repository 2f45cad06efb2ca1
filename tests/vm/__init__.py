"""Virtual machines for what the host lacks: AppArmor, SELinux, delegated cgroups, closed doors.

    python -m tests.vm                              every machine, every test that is marked for it
    python -m tests.vm apparmor -t tests/vm/test_x.py   one machine, one file
    python -m tests.vm selinux -c 'id -Z'           a command as the user `tester` (--root: as root)

A test marked ``@pytest.mark.vm("apparmor")`` runs in that machine and nowhere else; see
:mod:`tests.vm.guest` for what it may use there. The modules: :mod:`.machines` (which there are),
:mod:`.image` (the root file system, cached), :mod:`.share` (what goes in per run and comes back),
:mod:`.qemu` (one boot), :mod:`.outcomes` (that no test is skipped everywhere).
"""
