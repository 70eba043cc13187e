package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// The load generator's own few lines of MQTT: a client that did more for its user would cost more than the server.

// MQTT control packet types, in the high nibble of the first byte.
const (
	mqttConnack  = 2
	mqttPublish  = 3
	mqttPuback   = 4
	mqttSuback   = 9
	mqttPingresp = 13
)

var (
	mqttPingreq    = []byte{12 << 4, 0}
	mqttDisconnect = []byte{14 << 4, 0}
)

const mqttTimeout = 10 * time.Second

// mqttDial is how a connection is opened.
type mqttDial struct {
	addr, user, password string
	version              byte // 4 (3.1.1) or 5
	clientID             string
	clean                bool
	keepAlive            uint16 // seconds; 0: none
}

// mqttConn is a connection after CONNACK. One goroutine reads, one writes; they may be the same.
type mqttConn struct {
	net.Conn
	r       *bufio.Reader
	version byte
	present bool // the server had a session for us
}

func (d mqttDial) open(readBuffer int) (*mqttConn, error) {
	c, err := net.DialTimeout("tcp", d.addr, mqttTimeout)
	if err != nil {
		return nil, err
	}
	m := &mqttConn{Conn: c, r: bufio.NewReaderSize(c, readBuffer), version: d.version}
	if err := m.connect(d); err != nil {
		c.Close()
		return nil, err
	}
	return m, nil
}

func (m *mqttConn) connect(d mqttDial) error {
	flags := byte(0)
	if d.clean {
		flags |= 1 << 1
	}
	body := appendMQTTString(nil, "MQTT")
	if d.user != "" {
		flags |= 1 << 7
	}
	if d.password != "" {
		flags |= 1 << 6
	}
	body = append(body, d.version, flags, byte(d.keepAlive>>8), byte(d.keepAlive))
	switch {
	case d.version == 5 && d.clean:
		body = append(body, 0)
	case d.version == 5:
		body = append(body, 5, 0x11, 0, 0, 0x0e, 0x10) // session expiry: 1 h
	}
	body = appendMQTTString(body, d.clientID)
	if d.user != "" {
		body = appendMQTTString(body, d.user)
	}
	if d.password != "" {
		body = appendMQTTString(body, d.password)
	}
	if err := m.send(frame(1<<4, body)); err != nil {
		return err
	}
	_ = m.SetReadDeadline(time.Now().Add(mqttTimeout))
	defer m.SetReadDeadline(time.Time{})
	first, p, err := m.read()
	if err != nil {
		return fmt.Errorf("no CONNACK: %w", err)
	}
	if first>>4 != mqttConnack || len(p) < 2 {
		return fmt.Errorf("packet type %d instead of CONNACK", first>>4)
	}
	if p[1] != 0 {
		return fmt.Errorf("server refused the connection with code 0x%02x", p[1])
	}
	m.present = p[0]&1 != 0
	return nil
}

// subscribe waits for the SUBACK; nothing may be subscribed to before on this connection.
func (m *mqttConn) subscribe(filter string, qos byte) error {
	body := []byte{0, 1}
	if m.version == 5 {
		body = append(body, 0)
	}
	body = append(appendMQTTString(body, filter), qos)
	if err := m.send(frame(8<<4|2, body)); err != nil {
		return err
	}
	_ = m.SetReadDeadline(time.Now().Add(mqttTimeout))
	defer m.SetReadDeadline(time.Time{})
	first, p, err := m.read()
	if err != nil {
		return fmt.Errorf("no SUBACK: %w", err)
	}
	if first>>4 != mqttSuback || len(p) < 3 {
		return fmt.Errorf("packet type %d instead of SUBACK", first>>4)
	}
	if code := p[len(p)-1]; code >= 0x80 {
		return fmt.Errorf("server refused to subscribe to %s with code 0x%02x", filter, code)
	}
	return nil
}

func (m *mqttConn) send(b []byte) error {
	_, err := m.Write(b)
	return err
}

// read returns a packet's first byte and its body, valid until the next read.
func (m *mqttConn) read() (first byte, body []byte, err error) {
	head, size := 0, 0
	for want := 2; head == 0; want++ {
		b, err := m.r.Peek(want)
		if err != nil {
			return 0, nil, err
		}
		if head, size, err = packetSize(b); err != nil {
			return 0, nil, err
		}
		first = b[0]
	}
	if head+size > m.r.Size() {
		return 0, nil, fmt.Errorf("packet of %d bytes: more than --size leads to expect", size)
	}
	p, err := m.r.Peek(head + size)
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	_, _ = m.r.Discard(head + size)
	return first, p[head:], nil
}

// buffered reports whether a whole packet can be read without a system call.
func (m *mqttConn) buffered() bool {
	b, _ := m.r.Peek(min(5, m.r.Buffered()))
	head, size, err := packetSize(b)
	return err != nil || head > 0 && m.r.Buffered() >= head+size // an error is for read to report
}

// packetSize reads a fixed header: its own length, 0 if b does not hold all of it, and the length of what follows.
func packetSize(b []byte) (head, size int, err error) {
	for i := 1; i < len(b); i++ {
		size |= int(b[i]&0x7f) << (7 * (i - 1))
		switch {
		case b[i] < 0x80:
			return i + 1, size, nil
		case i == 4:
			return 0, 0, errors.New("malformed remaining length")
		}
	}
	return 0, 0, nil
}

func frame(first byte, body []byte) []byte {
	b := append(make([]byte, 0, len(body)+5), first)
	n := len(body)
	for {
		d := byte(n & 0x7f)
		if n >>= 7; n > 0 {
			b = append(b, d|0x80)
			continue
		}
		return append(append(b, d), body...)
	}
}

func appendMQTTString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// publishFrame builds a PUBLISH; payloadAt is where in it the payload begins.
func publishFrame(version byte, topic string, qos byte, id uint16, payload []byte) (b []byte, payloadAt int) {
	body := appendMQTTString(nil, topic)
	if qos > 0 {
		body = binary.BigEndian.AppendUint16(body, id)
	}
	if version == 5 {
		body = append(body, 0)
	}
	b = frame(3<<4|qos<<1, append(body, payload...))
	return b, len(b) - len(payload)
}

// publishPayload finds packet id (0 at QoS 0) and payload in a PUBLISH body.
func publishPayload(version, first byte, body []byte) (id uint16, payload []byte, err error) {
	bad := errors.New("malformed PUBLISH")
	if len(body) < 2 {
		return 0, nil, bad
	}
	at := 2 + int(binary.BigEndian.Uint16(body))
	if first>>1&3 > 0 {
		if len(body) < at+2 {
			return 0, nil, bad
		}
		id = binary.BigEndian.Uint16(body[at:])
		at += 2
	}
	if version == 5 {
		n, used := binary.Uvarint(body[min(at, len(body)):])
		if used <= 0 || n > uint64(len(body)) {
			return 0, nil, bad
		}
		at += used + int(n)
	}
	if at > len(body) {
		return 0, nil, bad
	}
	return id, body[at:], nil
}
