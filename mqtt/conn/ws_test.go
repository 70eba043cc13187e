package conn

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

func serveWebSocket(t *testing.T, w *WebSocket) string {
	t.Helper()
	l := NewLoop(Config{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.Serve(ln, Transport{WebSocket: w}, func(*Conn, bool) Handler { return newEcho(t) }) }()
	t.Cleanup(func() {
		ln.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		l.Close(ErrStopped)
	})
	return ln.Addr().String()
}

func TestWebSocketHandshake(t *testing.T) {
	// MQTT3 [MQTT-6.0.0-4]
	addr := serveWebSocket(t, &WebSocket{})
	strict := serveWebSocket(t, &WebSocket{Origins: []string{"https://console.example"}})
	for _, c := range []struct {
		name, addr, path, header string
		status                   int
	}{
		{"plain client", addr, "/mqtt", "Sec-WebSocket-Protocol: mqtt\r\n", 101},
		{"among others", addr, "/mqtt", "Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\n", 101}, // MQTT5 [MQTT-6.0.0-3]
		{"query", addr, "/mqtt?x=1", "Sec-WebSocket-Protocol: mqtt\r\n", 101},
		{"own origin", addr, "/mqtt", "Sec-WebSocket-Protocol: mqtt\r\nOrigin: http://HOST\r\n", 101},
		{"another origin", addr, "/mqtt", "Sec-WebSocket-Protocol: mqtt\r\nOrigin: http://evil.example\r\n", 403},
		{"listed origin", strict, "/mqtt", "Sec-WebSocket-Protocol: mqtt\r\nOrigin: https://console.example\r\n", 101},
		{"own origin, not listed", strict, "/mqtt", "Sec-WebSocket-Protocol: mqtt\r\nOrigin: http://HOST\r\n", 403},
		{"no subprotocol", addr, "/mqtt", "", 400},
		{"another path", addr, "/", "Sec-WebSocket-Protocol: mqtt\r\n", 404},
		{"headers without end", addr, "/mqtt", strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 50), 0},
	} {
		nc := dial(t, c.addr)
		io.WriteString(nc, "GET "+c.path+" HTTP/1.1\r\nHost: "+c.addr+"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"+strings.ReplaceAll(c.header, "HOST", c.addr)+"\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if c.status == 0 {
			if err == nil && resp.StatusCode == 101 {
				t.Errorf("%s: upgraded", c.name)
			}
			continue
		}
		if err != nil || resp.StatusCode != c.status {
			t.Errorf("%s: %v, %v, want %d", c.name, resp, err, c.status)
			continue
		}
		if p := resp.Header.Get("Sec-WebSocket-Protocol"); c.status == 101 && p != "mqtt" { // MQTT5 [MQTT-6.0.0-4]
			t.Errorf("%s: subprotocol %q", c.name, p)
		}
	}
}

func wsDial(t *testing.T, addr string) net.Conn {
	t.Helper()
	nc := dial(t, addr)
	d := ws.Dialer{Protocols: []string{"mqtt"}, NetDial: nil}
	u := "ws://" + addr + "/mqtt"
	parsed, err := http.NewRequest("GET", u, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Upgrade(nc, parsed.URL); err != nil {
		t.Fatal(err)
	}
	return nc
}

func TestWebSocketFrames(t *testing.T) { // MQTT5 [MQTT-6.0.0-2]: packets and frames need not coincide
	// MQTT3 [MQTT-6.0.0-2]
	addr := serveWebSocket(t, &WebSocket{MaxFrame: 1000})
	nc := wsDial(t, addr)
	send := func(fin bool, op ws.OpCode, payload string) {
		t.Helper()
		if err := ws.WriteFrame(nc, ws.MaskFrame(ws.NewFrame(op, fin, []byte(payload)))); err != nil {
			t.Fatal(err)
		}
	}
	read := func(op ws.OpCode, want string) {
		t.Helper()
		var got []byte
		for len(got) < len(want) || want == "" {
			h, err := ws.ReadHeader(nc)
			if err != nil {
				t.Fatal(err)
			}
			if h.OpCode != op || h.Masked || h.Length > 1000 {
				t.Fatalf("%+v, want opcode %v", h, op)
			}
			payload := make([]byte, h.Length)
			if _, err := io.ReadFull(nc, payload); err != nil {
				t.Fatal(err)
			}
			if got = append(got, payload...); want == "" {
				break
			}
		}
		if string(got) != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	send(true, ws.OpBinary, "one\ntwo\nthr")
	read(ws.OpBinary, "one\ntwo\n")
	send(false, ws.OpBinary, "ee") // a message in fragments, with a ping between them and an empty frame
	send(true, ws.OpPing, "hi")
	read(ws.OpPong, "hi")
	send(false, ws.OpContinuation, "")
	send(true, ws.OpContinuation, "\n")
	read(ws.OpBinary, "three\n")
	send(true, ws.OpPong, "") // unasked: ignored
	send(true, ws.OpClose, "\x03\xe8")
	read(ws.OpClose, "\x03\xe8")
	if _, err := nc.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after close: %v", err)
	}
}

func TestWebSocketRefusesFrames(t *testing.T) {
	// MQTT3 [MQTT-6.0.0-1]
	addr := serveWebSocket(t, &WebSocket{MaxFrame: 1000})
	for name, f := range map[string]ws.Frame{
		"text":         ws.MaskFrame(ws.NewTextFrame([]byte("x\n"))), // MQTT5 [MQTT-6.0.0-1]
		"not masked":   ws.NewBinaryFrame([]byte("x\n")),
		"too large":    ws.MaskFrame(ws.NewBinaryFrame(make([]byte, 1001))),
		"reserved bit": ws.MaskFrame(ws.Frame{Header: ws.Header{Fin: true, Rsv: 4, OpCode: ws.OpBinary, Length: 2}, Payload: []byte("x\n")}),
		"large ping":   ws.MaskFrame(ws.Frame{Header: ws.Header{Fin: true, OpCode: ws.OpPing, Length: 126}, Payload: make([]byte, 126)}),
	} {
		nc := wsDial(t, addr)
		var b bytes.Buffer
		if err := ws.WriteFrame(&b, f); err != nil {
			t.Fatal(err)
		}
		nc.Write(b.Bytes())
		nc.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := nc.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%s: answered", name)
		} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Errorf("%s: the connection stays open", name)
		}
	}
}
