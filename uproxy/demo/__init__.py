"""The demonstration: one process tree in which two workloads talk through two real uProxies.

It shows what uProxy does and proves what it shows; it is no part of the proxy.  The
authority, the wire tap and the strangers live in this process; the uProxies are two
`uproxy run` of their own.  Rules: loopback only; whatever was started is stopped, whatever
was written is removed, however it ends.

    wire                  reads TLS from captured bytes                            pure
    screen                what a person sees while it happens
    processes, ports      programs that never outlive us; ports for them
    listening, tap        servers of our own; the one that listens on the wire
    apps, distribution    applications: an echo, or PostgreSQL and nginx
    strangers             clients that don't belong here, with a TLS that isn't ours
    uproxies              `uproxy run`, as a program that we ask things
    world                 the authority, the uProxies, the taps: started and stopped
    story                 the steps, in order; each proves what it says
    performance           the story once, and whatever interrupts it
"""
