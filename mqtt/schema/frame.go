package schema

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Frame says who puts Confluent's prefix before a payload: a zero byte and the schema's id as four bytes, big-endian; for Protobuf the indexes of the message behind them.
type Frame string

const (
	FrameNone      Frame = "none"      // nobody: payloads come bare and are stored bare
	FrameConfluent Frame = "confluent" // weir: payloads come bare, consumers' deserializers find the schema
	FrameDevice    Frame = "device"    // the device: payloads come with it, are held to the version that it names, and are stored as they come
)

const frameSize = 5

// AppendFrame appends the prefix of payloads of this version to dst.
func (v *Version) AppendFrame(dst []byte) []byte {
	return append(binary.BigEndian.AppendUint32(append(dst, 0), uint32(v.ID)), v.indexes...)
}

// unframe parts the prefix from what is behind it.
func unframe(payload []byte) (id int32, body []byte, err error) {
	if len(payload) < frameSize || payload[0] != 0 {
		return 0, nil, errors.New("it does not begin with a zero byte and a schema's id, as payloads of routes with frame: device do")
	}
	id = int32(binary.BigEndian.Uint32(payload[1:]))
	if id < 0 {
		return 0, nil, fmt.Errorf("%d is no schema's id", uint32(id))
	}
	return id, payload[frameSize:], nil
}
