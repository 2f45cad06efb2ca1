"""Audit: other people's container configurations, judged by the controls that hardrun enforces.

    facts     what a configuration can say that is no control of a sandbox, as controls
    located   YAML and JSON with the place of every value
    model     Place, Seen, Subject, Finding
    rules     the catalogue: bounds over controls and facts, from policies/audit/*.yaml
    judge     subjects and rules to findings
    read/     one reader for each source
    report/   one writer for each format

Nothing is started and nothing of what is read is executed.
"""
