"""The demonstration: a process that lets two workloads talk through two real uProxies.

It is no part of the proxy; it shows what uProxy does, and proves each thing it shows.  The
authority, the wire tap and the unauthorized clients run in this process; the two uProxies are
`uproxy run` processes.  Rules: loopback only, but for the pods' own link; every process is stopped
and every file removed at the end, however it ends.

    apps, distribution    the applications: an echo, or PostgreSQL and nginx
    processes             child processes of the demonstration
    uproxies, admin       a `uproxy run` process and its admin listener
    world                 starts and stops the authority, the uProxies and the tap
    unauthorized          clients that ask for a stream and must be refused, with pyOpenSSL and h2
    evidence              facts from access logs, admin listeners and the wire
    screen                prints headings, check marks and tables
    story                 the steps in order; each proves what it says
    rotation              the step in which all certificates are renewed
    l7_act                the step in which a shared Envoy enters the path, and leaves it
    l7_world, envoy, web  what that step adds: configurations, an Envoy, an HTTP application
    capture_act, pods     the step in which a client's connections are captured, and its pods
    runner                runs the story once, and handles signals

The tap between the uProxies and the reader of captured TLS are in `lab`.
"""
