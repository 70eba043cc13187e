package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/mqtt/schema"
)

const (
	maxAnswer  = 4 << 20
	timeout    = 10 * time.Second
	maxMessage = 200
)

// client makes single requests.
type client struct {
	base               string
	username, password string
	http               *http.Client
	requests           atomic.Int64
}

func newClient(base, username, password string, roots *x509.CertPool) *client {
	return &client{
		base: strings.TrimRight(base, "/"), username: username, password: password,
		http: &http.Client{
			Timeout:       timeout,
			Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, MaxIdleConns: 1, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 64 << 10},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // R4
		},
	}
}

// answer is a version of a subject, as the registry gives it.
type answer struct {
	Subject    string `json:"subject"`
	ID         int32  `json:"id"`
	Version    int    `json:"version"`
	SchemaType string `json:"schemaType"` // "" for Avro
	Schema     string `json:"schema"`
	References []struct {
		Name    string `json:"name"`
		Subject string `json:"subject"`
		Version int    `json:"version"`
	} `json:"references"`
}

func (a *answer) format() schema.Format {
	if a.SchemaType == "" {
		return schema.Avro
	}
	return schema.Format(strings.ToLower(a.SchemaType))
}

// errStatus is an answer that is not what was asked for: the registry is there.
type errStatus struct {
	status  int
	message string
}

func (e *errStatus) Error() string {
	if e.message == "" {
		return "the registry answers " + http.StatusText(e.status)
	}
	return fmt.Sprintf("the registry answers %d: %s", e.status, e.message)
}

// version asks for one version of a subject, 0 for the latest.
func (c *client) version(ctx context.Context, subject string, number int) (a answer, err error) {
	name := "latest"
	if number > 0 {
		name = strconv.Itoa(number)
	}
	return a, c.get(ctx, "/subjects/"+url.PathEscape(subject)+"/versions/"+name, &a)
}

// versions lists the numbers of a subject's versions.
func (c *client) versions(ctx context.Context, subject string) (numbers []int, err error) {
	return numbers, c.get(ctx, "/subjects/"+url.PathEscape(subject)+"/versions", &numbers)
}

func (c *client) get(ctx context.Context, path string, to any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/vnd.schemaregistry.v1+json, application/json")
	if c.username != "" {
		req.SetBasicAuth(c.username, c.password)
	}
	c.requests.Add(1)
	resp, err := c.http.Do(req)
	if err != nil {
		var at *url.Error
		if errors.As(err, &at) {
			err = at.Err // the address stands in the configuration
		}
		return fmt.Errorf("the registry cannot be reached: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("the registry's answer breaks off: %w", err)
	case resp.StatusCode != http.StatusOK:
		var why struct {
			Message string `json:"message"`
		}
		_ = json.Unmarshal(body, &why) // what is no JSON has no message for us
		return &errStatus{resp.StatusCode, why.Message[:min(len(why.Message), maxMessage)]}
	case len(body) > maxAnswer:
		return &errStatus{resp.StatusCode, fmt.Sprintf("more than %d bytes; a schema may have %d", maxAnswer, schema.MaxText)}
	}
	if err := json.Unmarshal(body, to); err != nil {
		return &errStatus{resp.StatusCode, "no JSON of the form that schema registries have: does schemas.registry name the right path?"}
	}
	return nil
}
