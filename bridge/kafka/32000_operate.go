package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/weir-io/weir/cluster/access"
)

// Operate (key 32000, weir's own): v0
//
// What an operator asks of the cluster through weir's own tools, for which Kafka has no request: a word for what is to be done, and its particulars in
// JSON. ApiVersions does not list it, since no other client is to use it. It is served where Config.Operate is set, and to whom the other
// administrative requests are served.
//
//	request   compact string operation | compact bytes JSON | tags      (header version 2)
//	answer    int16 code | compact string why | compact bytes JSON | tags      (header version 1)
const keyOperate int16 = 32000

// Operate does what an operator asks, and answers in JSON. It may wait as long as ctx lasts.
type Operate func(ctx context.Context, operation string, particulars []byte) (answer []byte, err error)

// ErrOperation: no operation of that name, or particulars that make no sense.
var ErrOperation = errors.New("this version of weir does not understand what is asked")

// operateWithin bounds an operation; all that takes longer goes on by itself.
const operateWithin = 30 * time.Second

// operateMax bounds an answer, for who reads it.
const operateMax = 64 << 20

// private are the rows that are served and not listed.
func (s *Server) private() {
	if s.cfg.Operate != nil {
		s.apis[keyOperate] = &api{key: keyOperate, raw: (*Server).operate}
	}
}

func (s *Server) operate(ctx context.Context, c *conn, r *request, rep *reply) error {
	d := decoder{b: r.body}
	operation, particulars := string(d.compact()), append([]byte(nil), d.compact()...)
	d.tags()
	r.free()
	if d.bad {
		return errors.New("operate request ends early")
	}
	ctx, done := context.WithTimeoutCause(ctx, operateWithin, fmt.Errorf("not done within %s", operateWithin))
	defer done()
	answer, err := s.operateFor(ctx, c, operation, particulars)
	code, why := codeOf(err), ""
	if err != nil {
		answer, why = nil, err.Error()
		if errors.Is(err, ErrOperation) {
			code = errInvalidRequest
		}
	}
	out := newBuffer(minResponseBytes)
	out.b = appendResponseHeader(out.b, rep.corr, true)
	out.b = appendInt16(out.b, code)
	out.b = appendString(out.b, why, true)
	out.b = appendString(out.b, answer, true)
	out.b = append(out.b, 0)
	sealResponse(out.b)
	rep.size = out.size()
	rep.complete(out)
	c.enqueue(rep)
	return nil
}

func (s *Server) operateFor(ctx context.Context, c *conn, operation string, particulars []byte) ([]byte, error) {
	op := access.Alter
	if slices.Contains(s.cfg.OperateReads, operation) {
		op = access.Describe
	}
	if s.guarded(c) && !s.mayCluster(c, op) {
		s.n.unauthorized.Add(1)
		return nil, fmt.Errorf("%w: %s", errMayNot, *refusal(c, clusterWord(op), "the cluster"))
	}
	return s.cfg.Operate(ctx, operation, particulars)
}

// errMayNot: no rule allows it.
var errMayNot = errors.New("not authorized")

// OperateError is why an operation was not done, in the node's own words.
type OperateError struct {
	Code int16 // of the Kafka protocol
	Why  string
}

func (e *OperateError) Error() string { return e.Why }

// CallOperate asks the node at the other end of nc. It leaves nc open; after an error that is no *OperateError it is of no use.
func CallOperate(nc net.Conn, operation string, particulars []byte) (answer []byte, err error) {
	b := appendString(nil, operation, true)
	b = appendString(b, particulars, true)
	d, err := askNode(nc, keyOperate, 0, true, append(b, 0))
	if err != nil {
		return nil, err
	}
	code, why := d.int16(), string(d.compact())
	answer = d.compact()
	switch {
	case d.bad:
		return nil, errors.New("read the answer: it is no answer of a weir node")
	case code != errNone:
		return nil, &OperateError{code, why}
	}
	return answer, nil
}

// Login proves to the node at the other end of nc who asks, by SASL PLAIN.
func Login(nc net.Conn, user, password string) error {
	d, err := askNode(nc, 17, 1, false, appendString(nil, mechanismPlain, false))
	if err != nil {
		return err
	}
	if code := d.int16(); code != errNone || d.bad {
		return errors.New("the node does not ask clients who they are, or not by a password: leave the user out, or set kafka.sasl")
	}
	token := "\x00" + user + "\x00" + password
	d, err = askNode(nc, 36, 2, true, append(appendString(nil, token, true), 0))
	if err != nil {
		return err
	}
	if code := d.int16(); code != errNone || d.bad {
		return errors.New("the user or the password is wrong")
	}
	return nil
}

// askNode sends a request and reads its answer, up to the body.
func askNode(nc net.Conn, key, version int16, flexible bool, body []byte) (d decoder, err error) {
	b := appendInt16([]byte{0, 0, 0, 0}, key)
	b = appendInt16(b, version)
	b = appendInt32(b, 1)
	b = appendString(b, "weir", false)
	if flexible {
		b = append(b, 0)
	}
	b = append(b, body...)
	sealResponse(b)
	if _, err := nc.Write(b); err != nil {
		return d, fmt.Errorf("ask: %w", err)
	}
	var head [4]byte
	if _, err := io.ReadFull(nc, head[:]); err != nil {
		return d, fmt.Errorf("read the answer: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 5 || n > operateMax {
		return d, fmt.Errorf("read the answer: %w %d", errFrameSize, n)
	}
	answer := make([]byte, n)
	if _, err := io.ReadFull(nc, answer); err != nil {
		return d, fmt.Errorf("read the answer: %w", err)
	}
	d = decoder{b: answer}
	d.int32() // correlation id
	if flexible {
		d.tags()
	}
	return d, nil
}
