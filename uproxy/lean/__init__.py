"""Libraries imported without the parts that a uProxy never uses: one runs beside every workload.

The rooms:

    packages                 submodules of a package whose own __init__ isn't run
    prometheus, yaml_events  the parts of two packages that are imported so
    classes                  dataclasses that share their methods
    imports                  stand-ins for modules, while others are imported
    inspection               the functions of `inspect` that a stand-in knows

What each saves an idle uProxy (compiled engine, Workload API, scraped once): KiB of private memory
and of RSS that it holds more without that one, medians of 3 fresh processes, Python 3.11.
`python -m benchmarks.lean`, as root, measures again.

    without                                           private      RSS
    a stand-in (imports) for
      ssl                                                 1,224    4,232
      email.utils                                           524      560
      _hashlib                                              428    3,492
      subprocess                                            404      492
      cryptography…backends.openssl.backend                 380      384
      asyncio.unix_events                                   360      372
      cryptography…serialization.ssh                        332      320
      hpack.huffman_table                                   312      376
      inspect                                               312      376
      cryptography…asymmetric.types                         228      200
      gettext                                               176      240
      asyncio.sslproto                                      108       36
      random                                                100      136
      cryptography…asymmetric.mldsa                          76       56
      selectors                                              68       52
      tokenize                                               68       80
      cryptography…asymmetric.mlkem                          52      136
      textwrap                                               32       52
      each other kind of keys                                24       32
      asyncio.subprocess                                     24       36
      dis                                                     8       20
      ast                                                     0       52
    forward references not compiled (imports)               208      204
    classes                                               1,408    1,400
    prometheus_client's __init__ not run (packages)       3,956    4,304
    yaml's __init__ not run (packages)                      512      664
    all of them together                                  9,116   13,144

They don't add up: some bring along the same modules.
"""
