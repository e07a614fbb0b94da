// Program h2spec runs h2spec's tests of HTTP/2 servers against a door for tunnels, which serves
// nothing but CONNECT.
//
//	h2spec PORT CERTIFICATE KEY AUTHORITY REPORT
//
// h2spec asks with GET and POST.  A bridge makes CONNECTs to AUTHORITY of that, and presents a
// certificate; every other byte passes as it is.  REPORT is written as JUnit's XML.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/summerwind/h2spec"
	"github.com/summerwind/h2spec/config"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(port, certificate, key, authority, report string) error {
	ours, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return err
	}
	bridge, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go serve(bridge, "127.0.0.1:"+port, authority, &tls.Config{
		Certificates: []tls.Certificate{ours}, NextProtos: []string{"h2"}, InsecureSkipVerify: true,
	})
	_, err = h2spec.Run(&config.Config{
		Host: "127.0.0.1", Port: bridge.Addr().(*net.TCPAddr).Port, Path: "/", Strict: true,
		JUnitReport: report, Timeout: time.Second, MaxHeaderLen: 4000,
	})
	return err
}

func serve(bridge net.Listener, target, authority string, config *tls.Config) {
	for {
		tester, err := bridge.Accept()
		if err != nil {
			return
		}
		go func() {
			defer tester.Close()
			server, err := tls.Dial("tcp", target, config)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return
			}
			defer server.Close()
			go translate(tester, server, authority)
			io.Copy(tester, server)
		}()
	}
}

// translate passes on what h2spec sends.
func translate(tester net.Conn, server *tls.Conn, authority string) {
	defer server.CloseWrite()
	from := bufio.NewReader(tester)
	preface, _ := from.Peek(len(http2.ClientPreface))
	if string(preface) == http2.ClientPreface {
		io.CopyN(server, from, int64(len(preface)))
		decoder := hpack.NewDecoder(4096, nil)
		for {
			frame, err := next(from)
			server.Write(rewritten(frame, decoder, authority))
			if err != nil {
				return
			}
		}
	}
	io.Copy(server, from)
}

// next returns a frame, or at the end what there is of it.
func next(from *bufio.Reader) ([]byte, error) {
	head, err := from.Peek(9)
	if err != nil {
		rest, _ := io.ReadAll(from)
		return rest, err
	}
	frame := make([]byte, 9+int(binary.BigEndian.Uint32(append([]byte{0}, head[:3]...))))
	read, err := io.ReadFull(from, frame)
	return frame[:read], err
}

// rewritten returns the frame, or a CONNECT in place of a GET or POST that is well-formed.
func rewritten(frame []byte, decoder *hpack.Decoder, authority string) []byte {
	const whole, padded, prioritized = 4, 8, 32
	if len(frame) < 9 || frame[3] != byte(http2.FrameHeaders) || frame[4]&whole == 0 || frame[4]&padded != 0 {
		return frame
	}
	start := 9
	if frame[4]&prioritized != 0 {
		start += 5
	}
	if len(frame) < start {
		return frame
	}
	fields, err := decoder.DecodeFull(frame[start:])
	if err != nil || len(fields) < 4 || fields[0].Name != ":method" || fields[1].Name != ":scheme" ||
		fields[2] != (hpack.HeaderField{Name: ":path", Value: "/"}) || fields[3].Name != ":authority" {
		return frame
	}
	connect := []hpack.HeaderField{{Name: ":method", Value: "CONNECT"}, {Name: ":authority", Value: authority}}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range append(connect, fields[4:]...) {
		field.Sensitive = true // leaves the table alone
		encoder.WriteField(field)
	}
	made := append(append([]byte{}, frame[:start]...), block.Bytes()...)
	length := len(made) - 9
	made[0], made[1], made[2] = byte(length>>16), byte(length>>8), byte(length)
	return made
}
