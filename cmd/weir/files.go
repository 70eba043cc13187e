package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/weir-io/weir/mqtt"
)

// configFiles is what the files hold that a configuration names.
type configFiles struct {
	tls  *tls.Config      // nil: no certificate
	auth *mqtt.StaticAuth // nil: no users and rules

	registryPassword string
	registryRoots    *x509.CertPool // nil: the system's
}

// openFiles reads them. --check-config does so too: a configuration is valid only if a node starts with it.
func (c *Config) openFiles() (f configFiles, err error) {
	if f.tls, err = loadTLS(c.TLS); err != nil {
		return f, err
	}
	if c.Auth.File != "" {
		f.auth, err = mqtt.LoadAuth(c.Auth.File)
		if err != nil {
			return f, fmt.Errorf("auth.file: %w", err)
		}
	}
	if c.Schemas.PasswordFile != "" {
		text, err := os.ReadFile(c.Schemas.PasswordFile)
		if err != nil {
			return f, fmt.Errorf("schemas.password_file: %w", err)
		}
		f.registryPassword = strings.TrimRight(string(text), "\r\n")
	}
	if c.Schemas.CA != "" {
		if f.registryRoots, err = readPool(c.Schemas.CA); err != nil {
			return f, fmt.Errorf("schemas.ca: %w", err)
		}
	}
	return f, c.checkSASL(f.auth)
}

// readPool reads PEM certificates.
func readPool(name string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", name)
	}
	return pool, nil
}

// loadTLS reads the PEM files; nil when no certificate is named.
func loadTLS(c TLSConfig) (*tls.Config, error) {
	switch {
	case c == TLSConfig{}:
		return nil, nil
	case c.Cert == "" || c.Key == "":
		return nil, errors.New("tls.cert, tls.key: name both, or neither and no tls.client_ca")
	}
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, fmt.Errorf("tls.cert, tls.key: %w", err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if c.ClientCA != "" {
		pool, err := readPool(c.ClientCA)
		if err != nil {
			return nil, fmt.Errorf("tls.client_ca: %w", err)
		}
		conf.ClientCAs, conf.ClientAuth = pool, tls.RequireAndVerifyClientCert
	}
	return conf, nil
}
