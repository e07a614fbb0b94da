"""Libraries imported without the parts that a uProxy never uses: one runs beside every workload.

packages                 submodules of a package whose own __init__ isn't run
prometheus, yaml_events  the parts of two packages that are imported so
classes                  dataclasses that share their methods
imports                  stand-ins for modules, while others are imported
"""
