package conn

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/gobwas/ws"
)

// WebSocket carries MQTT in binary frames under the subprotocol "mqtt" (MQTT 5 §6).
type WebSocket struct {
	Path string // the only path that is upgraded, "/mqtt" when empty
	// Origins lists the values of Origin that browsers may come from. Empty: only the server's own host.
	// A client without Origin is no browser and passes.
	Origins []string
	// MaxFrame bounds one frame in bytes; 0 means 1 MiB + 64 KiB. Frames may be cut anywhere, so this is
	// not a packet size. // MQTT5 [MQTT-6.0.0-2]
	MaxFrame int64
}

var errFrame = errors.New("websocket: frame is not binary, not masked or too large")

// upgrade answers the HTTP handshake on nc. It reads byte for byte no more than the request, since clients
// send CONNECT right behind it.
func (w *WebSocket) upgrade(nc net.Conn) (net.Conn, error) {
	path := w.Path
	if path == "" {
		path = "/mqtt"
	}
	var host, origin string
	protocol := false
	up := ws.Upgrader{
		ReadBufferSize: 4096,
		Protocol: func(p []byte) bool { // MQTT5 [MQTT-6.0.0-3] [MQTT-6.0.0-4]
			protocol = protocol || string(p) == "mqtt"
			return string(p) == "mqtt"
		},
		OnRequest: func(uri []byte) error {
			if p, _, _ := strings.Cut(string(uri), "?"); p != path {
				return ws.RejectConnectionError(ws.RejectionStatus(http.StatusNotFound), ws.RejectionReason("MQTT lives at "+path))
			}
			return nil
		},
		OnHost: func(h []byte) error { host = string(h); return nil },
		OnHeader: func(key, value []byte) error {
			if strings.EqualFold(string(key), "Origin") {
				origin = string(value)
			}
			return nil
		},
		OnBeforeUpgrade: func() (ws.HandshakeHeader, error) {
			if !w.allowed(origin, host) {
				return nil, ws.RejectConnectionError(ws.RejectionStatus(http.StatusForbidden), ws.RejectionReason("origin is not allowed"))
			}
			if !protocol {
				return nil, ws.RejectConnectionError(ws.RejectionStatus(http.StatusBadRequest), ws.RejectionReason("subprotocol mqtt is required"))
			}
			return nil, nil
		},
	}
	limited := &limitedConn{Conn: nc, left: 16 << 10}
	if _, err := up.Upgrade(limited); err != nil {
		return nil, err
	}
	limit := w.MaxFrame
	if limit == 0 {
		limit = 1<<20 + 64<<10
	}
	return &wsConn{Conn: nc, maxFrame: limit}, nil
}

func (w *WebSocket) allowed(origin, host string) bool {
	if origin == "" {
		return true
	}
	for _, o := range w.Origins {
		if o == "*" || strings.EqualFold(o, origin) {
			return true
		}
	}
	if len(w.Origins) > 0 {
		return false
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, host)
}

// limitedConn ends a handshake that talks without end.
type limitedConn struct {
	net.Conn
	left int
}

func (l *limitedConn) Read(b []byte) (int, error) {
	if l.left <= 0 {
		return 0, errors.New("websocket: request is too long")
	}
	n, err := l.Conn.Read(b[:min(len(b), l.left)])
	l.left -= n
	return n, err
}

// wsConn is a net.Conn whose bytes travel in WebSocket frames. One goroutine may read while another writes;
// the reader answers pings and closes itself, which is safe because frame writes each frame in one call.
type wsConn struct {
	net.Conn
	maxFrame int64
	left     int64 // payload bytes of the current frame not yet read
	mask     [4]byte
	maskPos  int
	head     [14]byte
}

func (c *wsConn) Read(b []byte) (int, error) {
	for c.left == 0 {
		if err := c.nextFrame(); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Read(b[:min(int64(len(b)), c.left)])
	ws.Cipher(b[:n], c.mask, c.maskPos)
	c.maskPos += n
	c.left -= int64(n)
	return n, err
}

// nextFrame reads frame headers and control frames until a data frame with payload starts.
func (c *wsConn) nextFrame() error {
	h, err := c.header()
	if err != nil {
		return err
	}
	if h.OpCode.IsControl() {
		return c.control(h)
	}
	// MQTT5 [MQTT-6.0.0-1]: data frames are binary.
	if h.OpCode != ws.OpBinary && h.OpCode != ws.OpContinuation || !h.Masked || h.Rsv != 0 || h.Length > c.maxFrame {
		return errFrame
	}
	c.left, c.mask, c.maskPos = h.Length, h.Mask, 0
	return nil
}

// header reads one frame header into the connection's own scratch space.
func (c *wsConn) header() (h ws.Header, err error) {
	b := c.head[:]
	if _, err := io.ReadFull(c.Conn, b[:2]); err != nil {
		return h, err
	}
	h.Fin, h.Rsv, h.OpCode = b[0]&0x80 != 0, b[0]>>4&7, ws.OpCode(b[0]&15)
	h.Masked, h.Length = b[1]&0x80 != 0, int64(b[1]&0x7f)
	extra := 0
	switch h.Length {
	case 126:
		extra = 2
	case 127:
		extra = 8
	}
	n := extra
	if h.Masked {
		n += 4
	}
	if _, err := io.ReadFull(c.Conn, b[:n]); err != nil {
		return h, err
	}
	switch extra {
	case 2:
		h.Length = int64(binary.BigEndian.Uint16(b))
	case 8:
		if h.Length = int64(binary.BigEndian.Uint64(b)); h.Length < 0 {
			return h, errFrame
		}
	}
	if h.Masked {
		copy(h.Mask[:], b[extra:n])
	}
	return h, nil
}

// control answers ping with pong and close with close. Control frames are at most 125 bytes and whole.
func (c *wsConn) control(h ws.Header) error {
	if !h.Fin || h.Length > ws.MaxControlFramePayloadSize || !h.Masked || h.Rsv != 0 {
		return errFrame
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(c.Conn, payload); err != nil {
		return err
	}
	ws.Cipher(payload, h.Mask, 0)
	switch h.OpCode {
	case ws.OpPing:
		return c.frame(ws.OpPong, payload)
	case ws.OpClose:
		c.frame(ws.OpClose, payload[:min(2, len(payload))]) //nolint:errcheck // the connection ends anyway
		return io.EOF
	}
	return nil
}

// Write sends b as one binary frame.
func (c *wsConn) Write(b []byte) (int, error) {
	if err := c.frame(ws.OpBinary, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// frame sends header and payload in one call of the inner Write, which net.Conn and tls.Conn keep whole
// against a concurrent one.
func (c *wsConn) frame(op ws.OpCode, b []byte) error {
	buf := Get(len(b) + 10)
	defer Put(buf)
	out := append(buf.B, 0x80|byte(op))
	switch n := len(b); {
	case n < 126:
		out = append(out, byte(n))
	case n < 1<<16:
		out = binary.BigEndian.AppendUint16(append(out, 126), uint16(n))
	default:
		out = binary.BigEndian.AppendUint64(append(out, 127), uint64(n))
	}
	buf.B = append(out, b...)
	_, err := c.Conn.Write(buf.B)
	return err
}
