"""The demonstration: one process tree in which two workloads talk through two real uProxies.

It shows what uProxy does and proves what it shows; it is no part of the proxy.  The
authority, the wire tap and the strangers live in this process; the uProxies are two
`uproxy run` of their own.  Rules: loopback only; whatever was started is stopped, whatever
was written is removed, however it ends.  Ports, the tap and the reader of the wire are `lab`'s.

    screen                what a person sees while it happens
    processes             programs that never outlive us
    apps, distribution    applications: an echo, or PostgreSQL and nginx
    strangers             clients that don't belong here, with a TLS that isn't ours
    uproxies              `uproxy run`, as a program that we ask things
    world                 the authority, the uProxies, the taps: started and stopped
    story                 the steps, in order; each proves what it says
    performance           the story once, and whatever interrupts it
"""
