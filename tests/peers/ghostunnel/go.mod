module uproxy/tests/peers/ghostunnel

go 1.22.7

require github.com/ghostunnel/ghostunnel v1.8.4
