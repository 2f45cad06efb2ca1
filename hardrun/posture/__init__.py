"""The isolation controls: one file a dimension, each with its order, its meet and its words.

Nothing here makes a system call: what a host can enforce comes in as ``HostFacts``.
"""
