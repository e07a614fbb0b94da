"""Brings a workload's connections to its uProxy without the workload's knowledge.

A short-lived privileged command (`uproxy capture`) uses this room; a running proxy never imports
it.  `bpf_redirect/README.md` is the contract: what is attached where, and what the kernel must
have.

Rules: everything can be undone exactly; what is half made after the command was killed is
recognized and removed; nothing is changed before everything that can be checked has been.
"""
