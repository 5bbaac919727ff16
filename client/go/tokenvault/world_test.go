package tokenvault_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tokenvault.example/client/go/tokenvault"
	pb "tokenvault.example/client/go/tokenvault/v1"
)

// scripted is a sidecar that answers what a test says.
type scripted struct {
	pb.UnimplementedTokenVaultServer
	get   func(context.Context, *pb.GetTokenRequest) (*pb.GetTokenResponse, error)
	start func(context.Context, *pb.StartDelegationRequest) (*pb.StartDelegationResponse, error)
	watch func(*pb.WatchDelegationRequest, grpc.ServerStreamingServer[pb.WatchDelegationResponse]) error
	calls atomic.Int32
	seen  atomic.Value // the name in the last caller's certificate
}

func (s *scripted) GetToken(ctx context.Context, r *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
	s.calls.Add(1)
	who, _ := peer.FromContext(ctx)
	s.seen.Store(who.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0].Subject.CommonName)
	return s.get(ctx, r)
}

func (s *scripted) StartDelegation(ctx context.Context, r *pb.StartDelegationRequest) (*pb.StartDelegationResponse, error) {
	s.calls.Add(1)
	return s.start(ctx, r)
}

func (s *scripted) WatchDelegation(
	r *pb.WatchDelegationRequest, events grpc.ServerStreamingServer[pb.WatchDelegationResponse],
) error {
	s.calls.Add(1)
	return s.watch(r, events)
}

func token(version string, life time.Duration) *pb.GetTokenResponse {
	return &pb.GetTokenResponse{
		AccessToken: "secret-" + version, TokenType: "Bearer", TokenVersion: version,
		ExpireTime: timestamppb.New(time.Now().Add(life)),
	}
}

func refusal(code codes.Code, reason string, more ...protoadapt.MessageV1) error {
	details := append([]protoadapt.MessageV1{&errdetails.ErrorInfo{
		Reason: reason, Domain: "tokenvault.v1", Metadata: map[string]string{"brand": "acme"},
	}}, more...)
	told, err := status.New(code, "no").WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return told.Err()
}

// authority issues certificates into a folder.
type authority struct {
	t           *testing.T
	folder      string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, folder: t.TempDir()}
	a.certificate, a.key = a.issue("ca")
	return a
}

func (a *authority) file(name string) string { return filepath.Join(a.folder, name) }

// issue writes NAME.pem and NAME.key; the first is the authority's own.
func (a *authority) issue(name string) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: a.certificate == nil, BasicConstraintsValid: true,
	}
	parent, signer := a.certificate, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	must(a.t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(a.t, err)
	a.write(name+".pem", "CERTIFICATE", der)
	a.write(name+".key", "PRIVATE KEY", pkcs8)
	certificate, err := x509.ParseCertificate(der)
	must(a.t, err)
	return certificate, key
}

func (a *authority) write(name, label string, der []byte) {
	content := pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der})
	must(a.t, os.WriteFile(a.file(name), content, 0o600))
}

// serve serves the scripted sidecar over mutual TLS, on a port or a socket.
func (a *authority) serve(vault *scripted, network, address string, options ...grpc.ServerOption) (string, *grpc.Server) {
	a.t.Helper()
	a.issue("sidecar")
	own, err := tls.LoadX509KeyPair(a.file("sidecar.pem"), a.file("sidecar.key"))
	must(a.t, err)
	trusted := x509.NewCertPool()
	trusted.AddCert(a.certificate)
	listener, err := net.Listen(network, address)
	must(a.t, err)
	server := grpc.NewServer(append(options, grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{own}, ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS13,
	})))...)
	pb.RegisterTokenVaultServer(server, vault)
	go func() { _ = server.Serve(listener) }()
	a.t.Cleanup(server.Stop)
	return listener.Addr().String(), server
}

func (a *authority) config(address string) tokenvault.Config {
	return tokenvault.Config{
		Address: address, CA: a.file("ca.pem"), Certificate: a.file("bot.pem"), PrivateKey: a.file("bot.key"),
	}
}

// world is a client of a scripted sidecar.
func world(t *testing.T, vault *scripted) *tokenvault.Client {
	t.Helper()
	a := newAuthority(t)
	a.issue("bot")
	address, _ := a.serve(vault, "tcp", "127.0.0.1:0")
	return dial(t, a.config(address))
}

func dial(t *testing.T, config tokenvault.Config) *tokenvault.Client {
	t.Helper()
	client, err := tokenvault.Dial(config)
	must(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
