"""System call filters: Docker's, podman's and Kubernetes' JSON profiles as checked BPF programs.

    profile    the document: model, loading, errors with file and line
    rules      what a document says about one call: conditions resolved, arguments as wide as the
               kernel reads them; the direct evaluator
    decision   the rules of several documents for one call as one decision tree
    compile    ``build()``: one program for several profiles, checked before it is returned
    simulate   a classic-BPF machine, for that check and for tests of foreign architectures
    order      ``implies()`` and ``meet()``: which profile is stricter
    explain    ``gate()``: what each profile says about a call, and in which line
    prebuilt   filters of the shipped profiles, built ahead by ``prebuild``

Import from the modules: a run that finds its filter built ahead loads ``prebuilt`` alone.
"""
