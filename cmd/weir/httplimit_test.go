package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// askHTTP sends one request over a connection and returns the answer.
func askHTTP(c net.Conn) (code int, body string, err error) {
	if _, err := fmt.Fprint(c, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		return 0, "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// Connections beyond http.max_connections are told so, more than a few of those are closed unheard, all are counted; those
// within the limit go on, and a place that is given back is taken by the next.
func TestHTTPConnectionsAreBounded(t *testing.T) {
	const limit = 3
	n := testNodeWith(t, func(c *Config) { c.HTTP.MaxConnections = limit })
	dial := func() net.Conn {
		c, err := net.Dial("tcp", n.addrOf("http"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(9 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	var within, silent []net.Conn
	for range limit {
		within = append(within, dial())
		if code, _, err := askHTTP(within[len(within)-1]); code != http.StatusOK {
			t.Fatalf("within the limit: %d, %v", code, err)
		}
	}
	for range refusalSlots {
		silent = append(silent, dial())
	}
	if b, err := io.ReadAll(dial()); len(b) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%d beyond the limit: %q, %v", refusalSlots+1, b, err)
	}
	for _, c := range within {
		if code, _, err := askHTTP(c); code != http.StatusOK {
			t.Errorf("within the limit, later: %d, %v", code, err)
		}
	}
	if open, refused := n.http.listener.stats(); open != limit || refused != refusalSlots+1 {
		t.Errorf("%d open, %d refused", open, refused)
	}
	// until asks over new connections until the answer is there: the server hears by and by that others have ended.
	until := func(want int) {
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
			c := dial()
			code, _, _ := askHTTP(c)
			c.Close()
			if code == want {
				return
			}
		}
		t.Fatalf("nobody was answered with %d", want)
	}
	code, body, err := askHTTP(silent[0])
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "http.max_connections") {
		t.Errorf("beyond the limit: %d, %q, %v", code, body, err)
	}
	if b, err := io.ReadAll(silent[0]); len(b) > 0 || err != nil {
		t.Errorf("after the refusal: %q, %v", b, err)
	}
	for _, c := range silent {
		c.Close()
	}
	until(http.StatusServiceUnavailable)
	within[0].Close()
	until(http.StatusOK)
}

// A client that takes its time over a request, its body, its answer or the next request does not keep its place.
func TestHTTPClientsAreTimed(t *testing.T) {
	s := testNode(t).http.server
	for name, d := range map[string]time.Duration{
		"header": s.ReadHeaderTimeout, "request": s.ReadTimeout, "answer": s.WriteTimeout, "idle": s.IdleTimeout,
	} {
		if d <= 0 || d > httpTimeout {
			t.Errorf("%s: %v", name, d)
		}
	}
}
