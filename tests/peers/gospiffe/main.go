// Program gospiffe is go-spiffe as a stranger: what it sees of a Workload API, and mutual TLS
// with the SVIDs it got there.  It writes one JSON object per line.
//
//	gospiffe watch  ADDRESS [ID]              every X509Source update
//	gospiffe bundles ADDRESS                  every FetchX509Bundles message
//	gospiffe token  ADDRESS ID AUDIENCE…      a JWT-SVID, and what go-spiffe says of it itself
//	gospiffe validate ADDRESS AUDIENCE TOKEN  what the Workload API says of a JWT-SVID
//	gospiffe serve  ADDRESS ID PORT CALLER    answers each line of CALLER's with the line
//	gospiffe dial   ADDRESS ID PORT SERVER    says one line to SERVER and hears the answer
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2:]); err != nil && ctx.Err() == nil {
		say("error", err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, command string, args []string) error {
	switch command {
	case "watch":
		return watch(ctx, args[0], append(args, "")[1])
	case "bundles":
		return workloadapi.WatchX509Bundles(ctx, bundles{}, workloadapi.WithAddr(args[0]))
	case "token":
		return token(ctx, args[0], args[1], args[2], args[3:]...)
	case "validate":
		return validate(ctx, args[0], args[1], args[2])
	case "serve":
		return serve(ctx, args[0], args[1], args[2], args[3])
	case "dial":
		return dial(ctx, args[0], args[1], args[2], args[3])
	}
	return fmt.Errorf("no such command: %s", command)
}

func watch(ctx context.Context, address, id string) error {
	source, err := newSource(ctx, address, id)
	if err != nil {
		return err
	}
	defer source.Close()
	for {
		svid, err := source.GetX509SVID()
		if err != nil {
			return err
		}
		leaf := svid.Certificates[0]
		bundle, err := source.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
		if err != nil {
			return err
		}
		// the leaf is judged by go-spiffe's own verifier against the bundle that came with it
		_, _, err = x509svid.Verify(svid.Certificates, source)
		say("spiffe_id", svid.ID.String(), "serial", leaf.SerialNumber.String(),
			"hint", svid.Hint, "certificates", len(svid.Certificates),
			"roots", len(bundle.X509Authorities()), "verified", err == nil)
		select {
		case <-source.Updated():
		case <-ctx.Done():
			return nil
		}
	}
}

type bundles struct{}

func (bundles) OnX509BundlesUpdate(set *x509bundle.Set) {
	names := []string{}
	for _, bundle := range set.Bundles() {
		names = append(names, bundle.TrustDomain().Name())
	}
	say("trust_domains", names)
}

func (bundles) OnX509BundlesWatchError(err error) { say("error", err.Error()) }

func token(ctx context.Context, address, id, audience string, more ...string) error {
	source, err := workloadapi.NewJWTSource(ctx,
		workloadapi.WithClientOptions(workloadapi.WithAddr(address)))
	if err != nil {
		return err
	}
	defer source.Close()
	svid, err := source.FetchJWTSVID(ctx, jwtsvid.Params{
		Audience: audience, ExtraAudiences: more, Subject: spiffeid.RequireFromString(id)})
	if err != nil {
		return err
	}
	// judged by go-spiffe's own validator against the bundles that it watches
	judged, err := jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{audience})
	if err != nil {
		return err
	}
	say("token", svid.Marshal(), "spiffe_id", judged.ID.String(), "audience", judged.Audience)
	return nil
}

func validate(ctx context.Context, address, audience, token string) error {
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(address))
	if err != nil {
		return err
	}
	defer client.Close()
	svid, err := client.ValidateJWTSVID(ctx, token, audience)
	if err != nil {
		return err
	}
	say("spiffe_id", svid.ID.String(), "claims", svid.Claims)
	return nil
}

func serve(ctx context.Context, address, id, port, caller string) error {
	source, err := newSource(ctx, address, id)
	if err != nil {
		return err
	}
	defer source.Close()
	config := tlsconfig.MTLSServerConfig(source, source, authorize(caller))
	listener, err := tls.Listen("tcp", "127.0.0.1:"+port, config)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { listener.Close() })
	say("listening", port)
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go echo(conn.(*tls.Conn))
	}
}

func echo(conn *tls.Conn) {
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		say("error", err.Error())
		return
	}
	say("caller", peer(conn))
	fmt.Fprint(conn, line)
}

func dial(ctx context.Context, address, id, port, server string) error {
	source, err := newSource(ctx, address, id)
	if err != nil {
		return err
	}
	defer source.Close()
	config := tlsconfig.MTLSClientConfig(source, source, authorize(server))
	dialer := tls.Dialer{NetDialer: &net.Dialer{}, Config: config}
	conn, err := dialer.DialContext(ctx, "tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Fprintln(conn, "hello")
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	say("server", peer(conn.(*tls.Conn)), "heard", line)
	return nil
}

func newSource(ctx context.Context, address, id string) (*workloadapi.X509Source, error) {
	options := []workloadapi.X509SourceOption{
		workloadapi.WithClientOptions(workloadapi.WithAddr(address)),
	}
	if id != "" {
		options = append(options, workloadapi.WithDefaultX509SVIDPicker(picker(id)))
	}
	return workloadapi.NewX509Source(ctx, options...)
}

func picker(id string) func([]*x509svid.SVID) *x509svid.SVID {
	return func(svids []*x509svid.SVID) *x509svid.SVID {
		for _, svid := range svids {
			if svid.ID.String() == id {
				return svid
			}
		}
		return nil
	}
}

func authorize(id string) tlsconfig.Authorizer {
	return tlsconfig.AuthorizeID(spiffeid.RequireFromString(id))
}

func peer(conn *tls.Conn) string {
	id, err := x509svid.IDFromCert(conn.ConnectionState().PeerCertificates[0])
	if err != nil {
		return err.Error()
	}
	return id.String()
}

func say(pairs ...any) {
	fields := map[string]any{}
	for at := 0; at < len(pairs); at += 2 {
		fields[pairs[at].(string)] = pairs[at+1]
	}
	json.NewEncoder(os.Stdout).Encode(fields)
}
