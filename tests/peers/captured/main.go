// Clients in Go's own ways: `captured NAME PORT SOURCE_PORT`.
//
// The name is resolved by Go itself, not by the C library.  Each way prints one line of JSON: what
// it is called, the error, the addresses that Go sees, and the first line that the service says.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
)

const tcpFastopenConnect = 30

type seen struct {
	Way    string          `json:"way"`
	Error  string          `json:"error"`
	Remote string          `json:"remote"`
	Answer json.RawMessage `json:"answer"`
}

func main() {
	name, port := os.Args[1], os.Args[2]
	source, _ := strconv.Atoi(os.Args[3])
	where := net.JoinHostPort(name, port)
	dialer := func() *net.Dialer {
		return &net.Dialer{
			Timeout:  10 * time.Second,
			Resolver: &net.Resolver{PreferGo: true, StrictErrors: true},
		}
	}
	plain, multipath, bound, fast := dialer(), dialer(), dialer(), dialer()
	multipath.SetMultipathTCP(true)
	bound.LocalAddr = &net.TCPAddr{Port: source}
	fast.Control = func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(socket uintptr) {
			syscall.SetsockoptInt(int(socket), syscall.IPPROTO_TCP, tcpFastopenConnect, 1)
		})
	}
	tell("races", plain, "tcp", where)
	tell("four", plain, "tcp4", where)
	tell("six", plain, "tcp6", where)
	tell("multipath", multipath, "tcp", where)
	tell("bound", bound, "tcp4", where)
	tell("fast", fast, "tcp4", where)
}

func tell(way string, dialer *net.Dialer, network, where string) {
	found := seen{Way: way, Answer: json.RawMessage("null")}
	if err := ask(&found, dialer, network, where); err != nil {
		found.Error = err.Error()
	}
	line, _ := json.Marshal(found)
	fmt.Println(string(line))
}

func ask(found *seen, dialer *net.Dialer, network, where string) error {
	connection, err := dialer.DialContext(context.Background(), network, where)
	if err != nil {
		return err
	}
	defer connection.Close()
	found.Remote = connection.RemoteAddr().String()
	connection.SetDeadline(time.Now().Add(10 * time.Second))
	// what is sent first goes with the SYN where the kernel can do it
	if _, err = connection.Write([]byte("hello\n")); err != nil {
		return err
	}
	line, err := bufio.NewReader(connection).ReadBytes('\n')
	if err != nil {
		return err
	}
	found.Answer = line[:len(line)-1]
	return nil
}
