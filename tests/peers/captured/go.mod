module uproxy/tests/peers/captured

go 1.22
