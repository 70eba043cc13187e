package uplink

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// connection is what all clients of the target share.
func (t *kafkaTarget) connection() ([]kgo.Opt, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(t.cfg.to...), kgo.ClientID("weir-uplink-" + t.cfg.Name), kgo.DialTimeout(dialTimeout),
		kgo.RequestTimeoutOverhead(requestTimeout + t.patience.extra), kgo.RetryTimeout(deliveryTimeout), kgo.MetadataMinAge(500 * time.Millisecond), kgo.MetadataMaxAge(t.askEvery), kgo.WithHooks(t),
		kgo.DisableClientMetrics(), // what goes over the link is what was asked for
	}
	if t.cfg.secure {
		conf, err := t.cfg.TLS.open()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.DialTLSConfig(conf))
	}
	if s := t.cfg.SASL; s.User != "" {
		text, err := os.ReadFile(s.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("sasl.password_file: %w", err)
		}
		pass := strings.TrimRight(string(text), "\r\n")
		switch s.Mechanism {
		case scram256:
			opts = append(opts, kgo.SASL(scram.Auth{User: s.User, Pass: pass}.AsSha256Mechanism()))
		case scram512:
			opts = append(opts, kgo.SASL(scram.Auth{User: s.User, Pass: pass}.AsSha512Mechanism()))
		default:
			opts = append(opts, kgo.SASL(plain.Auth{User: s.User, Pass: pass}.AsMechanism()))
		}
	}
	return opts, nil
}

// open reads the PEM files.
func (c *TLSConfig) open() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("tls.ca: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls.ca: %s holds no PEM certificate", c.CA)
		}
	}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("tls.cert, tls.key: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// unknown says as whom the target has refused this cluster, and what to look at.
func (t *kafkaTarget) unknown(err error) error {
	if s := t.cfg.SASL; errors.Is(err, kerr.SaslAuthenticationFailed) || errors.Is(err, kerr.UnsupportedSaslMechanism) {
		return fmt.Errorf("%w: it does not take user %q by %s: correct sasl.mechanism, sasl.user or what is in %s (sasl.password_file), which is read again with each attempt", err, s.User, s.Mechanism, s.PasswordFile)
	}
	return err
}
