package tokenvault

import (
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// Which calls are repeated: the file beside the proto, which `make gen` copies.
//
//go:embed token_vault_grpc_service_config.json
var serviceConfig string

// Config is how the sidecar is reached.
type Config struct {
	// Address is "host:port", "dns:host:port" or "unix:/path".
	Address string
	// CA is the file of the authority that issued the sidecar's certificate;
	// Certificate and PrivateKey are this caller's files. All PEM. Where
	// one changes, later calls use a new connection with what is in them.
	CA, Certificate, PrivateKey string
	// ServerName is the name in the sidecar's certificate; empty: the
	// address's host, or "localhost" on a unix socket.
	ServerName string
	// Timeout is for calls whose context has no deadline; zero: 10 s, and 30 s
	// for CompleteDelegation.
	Timeout time.Duration
}

// ConfigFromEnvironment reads TOKENVAULT_ADDRESS, TOKENVAULT_CA,
// TOKENVAULT_CERT and TOKENVAULT_KEY. The error names each that is not set.
func ConfigFromEnvironment() (Config, error) {
	var config Config
	var missing []string
	for _, v := range []struct {
		name, means string
		value       *string
	}{
		{"TOKENVAULT_ADDRESS", `the sidecar's address, "host:port" or "unix:/path"`, &config.Address},
		{"TOKENVAULT_CA", "file of the authority that issued the sidecar's certificate, PEM", &config.CA},
		{"TOKENVAULT_CERT", "file of this caller's certificate, PEM", &config.Certificate},
		{"TOKENVAULT_KEY", "file of that certificate's private key, PEM", &config.PrivateKey},
	} {
		if *v.value = os.Getenv(v.name); *v.value == "" {
			missing = append(missing, fmt.Sprintf("%s (%s)", v.name, v.means))
		}
	}
	if missing != nil {
		return Config{}, errors.New("tokenvault: not set in the environment: " + strings.Join(missing, "; "))
	}
	return config, nil
}

// read reads the three files; the error names the one at fault.
func (c Config) read() (*tls.Config, error) {
	ca, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("tokenvault: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("tokenvault: %s: holds no PEM CERTIFICATE", c.CA)
	}
	own, err := tls.LoadX509KeyPair(c.Certificate, c.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("tokenvault: %s, %s: %w", c.Certificate, c.PrivateKey, err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    roots,
		// Shown whatever authorities the sidecar names: it is the only one there is.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil },
	}, nil
}

func (c Config) connect() (*grpc.ClientConn, error) {
	if !strings.Contains(c.Address, ":") {
		return nil, fmt.Errorf(`tokenvault: address %q: write "host:port", "dns:host:port" or "unix:/path"`, c.Address)
	}
	mutual, err := c.read()
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(mutual)),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDisableServiceConfig(), // none from DNS
		// https_proxy is meant for the way out, not for the way to the sidecar.
		grpc.WithNoProxy(),
		// A dead peer is noticed during a call; idle connections stay silent, as servers want it.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		// The sidecar is near: find out fast that it is back after a restart.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
	if c.ServerName != "" {
		options = append(options, grpc.WithAuthority(c.ServerName))
	}
	return grpc.NewClient(c.Address, options...)
}
