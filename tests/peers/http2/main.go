// Program http2 is golang.org/x/net/http2 as one end of tunnels: CONNECT over mutual TLS, without
// verifying names.  It writes one JSON object per line.
//
//	http2 serve CERTIFICATE KEY ROOTS PORT STREAMS              dials what a CONNECT names; at most STREAMS at a time
//	http2 dial CERTIFICATE KEY ROOTS PORT AUTHORITY COUNT SIZE  COUNT streams at once on one tunnel, each with SIZE
//	                                                            bytes to an echo and back, half-closing
//	http2 get  CERTIFICATE KEY ROOTS PORT                       asks with GET
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/net/http2"
)

func main() {
	config, err := mutual(os.Args[2], os.Args[3], os.Args[4])
	if err == nil {
		switch rest := os.Args[6:]; os.Args[1] {
		case "serve":
			err = serve(config, os.Args[5], rest[0])
		case "dial":
			err = dial(config, os.Args[5], rest[0], rest[1], rest[2])
		case "get":
			err = get(config, os.Args[5])
		}
	}
	if err != nil {
		say("error", err.Error())
		os.Exit(1)
	}
}

func mutual(certificate, key, roots string) (*tls.Config, error) {
	ours, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(roots)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &tls.Config{
		Certificates: []tls.Certificate{ours}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		InsecureSkipVerify: true, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13,
	}, err
}

func serve(config *tls.Config, port, streams string) error {
	most, err := strconv.Atoi(streams)
	if err != nil {
		return err
	}
	server := &http.Server{Addr: "127.0.0.1:" + port, TLSConfig: config, Handler: http.HandlerFunc(relay)}
	if err := http2.ConfigureServer(server, &http2.Server{MaxConcurrentStreams: uint32(most)}); err != nil {
		return err
	}
	stop, done := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer done()
	over := make(chan error)
	context.AfterFunc(stop, func() { over <- server.Shutdown(context.Background()) })
	listener, err := tls.Listen("tcp", server.Addr, config)
	if err != nil {
		return err
	}
	say("listening", port)
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-over // its streams have ended
}

func relay(answer http.ResponseWriter, request *http.Request) {
	caller := ""
	if names := request.TLS.PeerCertificates[0].URIs; len(names) > 0 {
		caller = names[0].String()
	}
	say("method", request.Method, "authority", request.Host, "caller", caller)
	application, err := net.Dial("tcp", request.Host)
	if err != nil {
		answer.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer application.Close()
	answer.WriteHeader(http.StatusOK)
	flusher := http.NewResponseController(answer)
	flusher.Flush()
	go func() {
		if _, err := io.Copy(application, request.Body); err != nil {
			application.(*net.TCPConn).SetLinger(0)
			application.Close()
			return
		}
		application.(*net.TCPConn).CloseWrite()
	}()
	buffer := make([]byte, 32*1024)
	for {
		count, err := application.Read(buffer)
		if _, failed := answer.Write(buffer[:count]); failed != nil {
			return
		}
		flusher.Flush()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler) // RST_STREAM
		}
	}
}

func dial(config *tls.Config, port, authority, count, size string) error {
	streams, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	length, err := strconv.Atoi(size)
	if err != nil {
		return err
	}
	tunnel, err := open(config, port)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	results := make(chan error, streams)
	for range streams {
		all.Add(1)
		go func() {
			defer all.Done()
			results <- exchange(tunnel, authority, length)
		}()
	}
	all.Wait()
	close(results)
	good, bad := 0, ""
	for result := range results {
		if result == nil {
			good++
		} else {
			bad = result.Error()
		}
	}
	say("good", good, "last_failure", bad)
	return tunnel.Close()
}

func exchange(tunnel *http2.ClientConn, authority string, length int) error {
	sent := make([]byte, length)
	rand.Read(sent)
	reader, writer := io.Pipe()
	request := &http.Request{
		Method: "CONNECT", URL: &url.URL{Host: authority}, Host: authority, Body: reader, ContentLength: -1,
		Header: http.Header{"Baggage": {"service.name=client"}},
	}
	answer, err := tunnel.RoundTrip(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("answered with %d", answer.StatusCode)
	}
	go func() {
		io.Copy(writer, bytes.NewReader(sent))
		writer.Close()
	}()
	back, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if sha256.Sum256(back) != sha256.Sum256(sent) {
		return fmt.Errorf("%d bytes came back, not what was sent", len(back))
	}
	return nil
}

func get(config *tls.Config, port string) error {
	tunnel, err := open(config, port)
	if err != nil {
		return err
	}
	request, err := http.NewRequest("GET", "https://127.0.0.1:"+port+"/", nil)
	if err != nil {
		return err
	}
	answer, err := tunnel.RoundTrip(request)
	if err != nil {
		return err
	}
	say("status", answer.StatusCode)
	return tunnel.Close()
}

func open(config *tls.Config, port string) (*http2.ClientConn, error) {
	connection, err := tls.Dial("tcp", "127.0.0.1:"+port, config)
	if err != nil {
		return nil, err
	}
	server := connection.ConnectionState().PeerCertificates[0].URIs
	say("server", fmt.Sprint(server[0]))
	return (&http2.Transport{StrictMaxConcurrentStreams: true}).NewClientConn(connection)
}

var saying sync.Mutex

func say(pairs ...any) {
	fields := map[string]any{}
	for at := 0; at < len(pairs); at += 2 {
		fields[pairs[at].(string)] = pairs[at+1]
	}
	saying.Lock()
	defer saying.Unlock()
	json.NewEncoder(os.Stdout).Encode(fields)
}
