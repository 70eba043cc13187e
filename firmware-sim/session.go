package firmwaresim

import (
	"context"
	"errors"
	"io"

	"github.com/eclipse/paho.golang/packets"
	paholog "github.com/eclipse/paho.golang/paho/log"
	"github.com/eclipse/paho.golang/paho/session"
)

// sessionState is the device's side of an MQTT session (5.0 §4.1), in the form that the client library asks for. It
// lives as long as the device is powered and hands every PUBACK straight to the ledger, so that a window of publishes
// can be in flight without a goroutine for each. The library's own state keeps payloads and a channel per message.
//
// All fields are guarded by device.mu.
type sessionState struct {
	d      *device
	conn   io.Writer // nil while not connected
	lastID uint16
	extra  map[uint16]chan<- packets.ControlPacket // ids of what is not a reading: SUBSCRIBE (with its waiter), replies, deliberate duplicates
	window int                                     // readings in flight at most: ours, or the server's receive maximum if smaller
	// launching says what the device's goroutine is about to publish.
	launching launch
}

type launch uint8

const (
	launchExtra launch = iota
	launchReading
)

var _ session.SessionManager = (*sessionState)(nil)

// ConAckReceived resumes: what is in flight is sent again with DUP and its old id if the server still has the session
// [MQTT-4.4.0-1], and is forgotten (to be published anew) if it has not.
func (s *sessionState) ConAckReceived(conn io.Writer, _ *packets.Connect, ack *packets.Connack) error {
	d := s.d
	d.mu.Lock()
	s.conn = conn
	s.window = d.fleet.cfg.Window
	if ack.Properties != nil && ack.Properties.ReceiveMaximum != nil {
		s.window = min(s.window, int(*ack.Properties.ReceiveMaximum))
	}
	var again []entry
	if ack.SessionPresent {
		for _, e := range d.out.flying() {
			if !e.done {
				again = append(again, e)
			}
		}
	} else {
		d.out.forget()
	}
	d.led.Resent += int64(len(again))
	d.mu.Unlock()

	for _, e := range again {
		p := d.publish(e).Packet()
		p.PacketID, p.Duplicate = e.id, true
		if _, err := p.WriteTo(conn); err != nil {
			return err
		}
	}
	return nil
}

// ConnectionLost frees what does not outlive a connection. Readings in flight stay so.
func (s *sessionState) ConnectionLost(*packets.Disconnect) error {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.conn = nil
	for id, waiter := range s.extra {
		if waiter != nil {
			waiter <- packets.ControlPacket{} // its buffer holds one
		}
		delete(s.extra, id)
	}
	return nil
}

// AddToSession gives p a packet id. It is called in the device's goroutine, from Publish and Subscribe.
func (s *sessionState) AddToSession(_ context.Context, p session.Packet, resp chan<- packets.ControlPacket) error {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	if s.conn == nil {
		return session.ErrNoConnection
	}
	id, ok := s.freeID()
	if !ok {
		return session.ErrPacketIdentifiersExhausted
	}
	switch {
	case p.Type() == packets.SUBSCRIBE:
		s.extra[id] = resp
	case s.launching == launchReading:
		s.d.launched(id)
	default:
		s.extra[id] = nil
	}
	p.SetIdentifier(id)
	return nil
}

func (s *sessionState) freeID() (uint16, bool) {
	for range 1 << 16 {
		s.lastID++
		if s.lastID == 0 {
			continue
		}
		if _, taken := s.extra[s.lastID]; taken {
			continue
		}
		taken := false
		for _, e := range s.d.out.flying() {
			taken = taken || e.id == s.lastID && !e.done
		}
		if !taken {
			return s.lastID, true
		}
	}
	return 0, false
}

// PacketReceived is called by the connection's reader.
func (s *sessionState) PacketReceived(p *packets.ControlPacket, deliver chan<- *packets.Publish) error {
	switch c := p.Content.(type) {
	case *packets.Publish:
		deliver <- c
		return nil
	case *packets.Puback:
		s.d.acked(c.PacketID, c.ReasonCode)
		return nil
	case *packets.Suback:
		s.d.mu.Lock()
		defer s.d.mu.Unlock()
		if waiter := s.extra[c.PacketID]; waiter != nil {
			waiter <- *p
		}
		delete(s.extra, c.PacketID)
		return nil
	}
	return errors.New("unexpected packet " + p.PacketType())
}

// Ack answers a QoS 1 command; devices subscribe with no more than that.
func (s *sessionState) Ack(p *packets.Publish) error {
	s.d.mu.Lock()
	conn := s.conn
	s.d.mu.Unlock()
	if p.QoS != 1 || conn == nil {
		return nil
	}
	_, err := (&packets.Puback{PacketID: p.PacketID, Properties: &packets.Properties{}}).WriteTo(conn)
	return err
}

// Close, SetErrorLogger and SetDebugLogger complete the interface; the state holds nothing open and does not log.
func (s *sessionState) Close() error                  { return nil }
func (s *sessionState) SetErrorLogger(paholog.Logger) {}
func (s *sessionState) SetDebugLogger(paholog.Logger) {}
