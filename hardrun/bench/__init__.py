"""What isolation costs, measured beside other runtimes on the machine of whoever asks.

    clock       start one process and say when it ended, or that it failed
    law         medians, percentiles, intervals, and when nothing can be concluded
    document    the results: series of raw samples; as JSON and in hyperfine's format
    machine     what else has to be known of a machine for its numbers to mean anything
    scene       one root file system, one program, one writable directory for all
    contender   one way to start a command, and how much isolation that is
    ours        hardrun's own;  peers: other runtimes;  oci: their config.json at each level
    ladder      one plan, layer after layer
    rounds      everybody in random order, round after round
    startup, disk, memory, syscall, scale, io   what is measured
    worker      measurements in a process or namespace of their own
    suites      which of them run, and how long that takes
    musts       what hardrun must reach;  compare: two results
    pages, plots   results for people

docs/bench.md says how measurements are made comparable.
"""
