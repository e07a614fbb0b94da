"""Libraries imported without the parts that a uProxy never uses: one runs beside every workload.

The rooms:

    packages                 submodules of a package whose own __init__ isn't run
    prometheus, yaml_events  the parts of two packages that are imported so
    classes                  dataclasses that share their methods
    imports                  stand-ins for modules, while others are imported
    inspection               the functions of `inspect` that a stand-in knows

What each saves an idle uProxy (compiled engine, Workload API, scraped once): KiB of private memory
and of RSS that it holds more without that one, medians of 9 fresh processes, Python 3.11.
`python -m benchmarks.lean`, as root, measures again.

    without                                           private      RSS
    a stand-in (imports) for
      ssl                                               1,232    4,284
      email.utils                                         528      552
      cryptography…backends.openssl.backend               424      436
      _hashlib                                            416    3,432
      inspect                                             416      360
      subprocess                                          372      408
      cryptography…serialization.ssh                      360      352
      gettext                                             332      360
      tokenize                                            276      300
      ast                                                 268      236
      selectors                                           240      212
      textwrap                                            236      252
      asyncio.sslproto                                    216      208
      dis                                                 172      176
      random                                               56       88
    forward references not compiled (imports)           196      164
    classes                                               960      956
    prometheus_client's __init__ not run (packages)     3,292    3,620
    yaml's __init__ not run (packages)                    496      696
    all of them together                                7,464   11,504

They don't add up: some bring along the same modules.
"""
