package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// handClient speaks MQTT 3.1.1 byte by byte, so that a test decides where an exchange breaks off.
type handClient struct {
	net.Conn
	in      *bufio.Reader
	present bool // the server had the session
}

// dialByHand connects; clean false asks for the session to last.
func dialByHand(addr, id string, clean bool) (*handClient, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = nc.SetDeadline(time.Now().Add(time.Minute))
	c := &handClient{Conn: nc, in: bufio.NewReader(nc)}
	flags := byte(0)
	if clean {
		flags = 2
	}
	body := append([]byte{0, 4, 'M', 'Q', 'T', 'T', 4, flags, 0, 60, 0, byte(len(id))}, id...)
	if err = c.send(0x10, body); err == nil {
		var head byte
		if head, body, err = c.read(); err == nil && (head != 0x20 || len(body) != 2 || body[1] != 0) {
			err = fmt.Errorf("CONNECT of %s answered with %#x % x", id, head, body)
		}
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	c.present = body[0] == 1
	return c, nil
}

// send writes one packet of at most 16 KiB.
func (c *handClient) send(head byte, body []byte) error {
	b := []byte{head, byte(len(body))}
	if len(body) > 127 {
		b = []byte{head, byte(len(body)&0x7f | 0x80), byte(len(body) >> 7)}
	}
	_, err := c.Write(append(b, body...))
	return err
}

// read reads one packet; a read that takes a minute fails.
func (c *handClient) read() (head byte, body []byte, err error) {
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if head, err = c.in.ReadByte(); err != nil {
		return 0, nil, err
	}
	length, shift := 0, 0
	for more := true; more; shift += 7 {
		b, err := c.in.ReadByte()
		if err != nil {
			return 0, nil, err
		}
		length |= int(b&0x7f) << shift
		if more = b&0x80 != 0; more && shift > 14 {
			return 0, nil, errors.New("endless length")
		}
	}
	body = make([]byte, length)
	_, err = io.ReadFull(c.in, body)
	return head, body, err
}

// flags of a PUBLISH
const (
	rawRetain = 1
	rawQoS1   = 2
	rawQoS2   = 4
	rawDup    = 8
)

func (c *handClient) publish(flags byte, topic string, id uint16, payload string) error {
	body := append([]byte{0, byte(len(topic))}, topic...)
	if flags&(rawQoS1|rawQoS2) != 0 {
		body = append(body, byte(id>>8), byte(id))
	}
	return c.send(0x30|flags, append(body, payload...))
}

// ack sends PUBACK 0x40, PUBREC 0x50, PUBREL 0x62 or PUBCOMP 0x70.
func (c *handClient) ack(head byte, id uint16) error {
	return c.send(head, []byte{byte(id >> 8), byte(id)})
}

// subscribe reads no answer: in a session that went on messages may come before it.
func (c *handClient) subscribe(filter string, qos byte) error {
	return c.send(0x82, append(append([]byte{0, 1, 0, byte(len(filter))}, filter...), qos))
}

// split takes a PUBLISH apart.
func split(head byte, body []byte) (topic string, id uint16, payload string) {
	n := int(body[0])<<8 | int(body[1])
	topic, body = string(body[2:2+n]), body[2+n:]
	if head&(rawQoS1|rawQoS2) != 0 {
		id, body = idOf(body), body[2:]
	}
	return topic, id, string(body)
}

func idOf(body []byte) uint16 { return uint16(body[0])<<8 | uint16(body[1]) }
