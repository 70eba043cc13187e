package kafka

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
)

// JoinGroup (key 11): v0–9
//
// Waits until the join phase ends: for all members, or for the rebalance
// timeout. When the server stops or the peer is gone it no longer does; the
// member stays, and its client joins again under its id.
//
//	v1  rebalance timeout apart from the session's
//	v4  a new member is told its id first and joins again (KIP-394)
//	v5  group.instance.id (KIP-345)
//	v7  protocol type in the answer
//	v9  SkipAssignment (KIP-814)
func (s *Server) joinGroup(ctx context.Context, c *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.JoinGroupRequest)
	a, code := s.ask(ctx, func(ch chan<- group.Answer) int16 { return s.groups.join(req, c, ch) })
	resp := kmsg.NewPtrJoinGroupResponse()
	resp.ErrorCode = code
	resp.Generation = -1
	resp.MemberID = req.MemberID
	if code != errNone {
		if a.MemberID != "" {
			resp.MemberID = a.MemberID
		}
		return resp, nil
	}
	resp.Generation, resp.MemberID = a.Generation, a.MemberID
	resp.ProtocolType, resp.Protocol = &a.ProtocolType, &a.Protocol
	resp.LeaderID, resp.SkipAssignment = a.Leader, a.SkipAssignment
	for _, m := range a.Members {
		rm := kmsg.NewJoinGroupResponseMember()
		rm.MemberID, rm.InstanceID, rm.ProtocolMetadata = m.ID, optional(m.Instance), m.Metadata
		resp.Members = append(resp.Members, rm)
	}
	return resp, nil
}

// ask sends a request that may wait, and waits. A closed channel says that
// another broker coordinates the group now.
func (s *Server) ask(ctx context.Context, send func(chan<- group.Answer) int16) (group.Answer, int16) {
	ch := make(chan group.Answer, 1) // room, so that nobody waits for us if we leave
	if code := send(ch); code != errNone {
		return group.Answer{}, code
	}
	return s.awaitAnswer(ctx, ch)
}

func (s *Server) awaitAnswer(ctx context.Context, ch <-chan group.Answer) (group.Answer, int16) {
	select {
	case a, here := <-ch:
		if !here {
			return a, errNotCoordinator
		}
		return a, groupCode[a.Fault]
	case <-ctx.Done():
	case <-s.draining:
	}
	return group.Answer{}, errCoordinatorNotAvailable
}

// join puts the request to its group. With errNone the answer comes into ch.
func (c *coordinator) join(req *kmsg.JoinGroupRequest, from *conn, ch chan<- group.Answer) int16 {
	if req.Group == "" {
		return errInvalidGroupID
	}
	if _, code := c.find(req.Group); code != errNone {
		return code
	}
	r := joinRequest(req, from)
	if len(r.Instance) > maxInstanceIDBytes {
		return errInvalidRequest
	}
	bytes := group.MemberBytes
	for i := range r.Protocols {
		bytes += len(r.Protocols[i].Metadata)
	}
	if c.full(bytes) {
		c.log.Warn("kafka: member refused, groups take too much memory", "group", req.Group, "limit", c.cfg.MaxBytes)
		return errGroupMaxSizeReached
	}
	e, code := c.lock(req.Group, req.MemberID == "")
	switch code {
	case errNone:
	case errGroupIDNotFound:
		return errUnknownMemberID
	default:
		return code
	}
	before := e.g.State()
	r.Ticket, r.Topics = e.await(ch), c.topics.Load()
	c.unlock(e, before, e.g.Join(r, time.Now()))
	return errNone
}

// await gives a waiting request its ticket. The group's lock is held.
func (e *groupEntry) await(ch chan<- group.Answer) group.Ticket {
	e.tickets++
	e.calls[e.tickets] = ch
	return e.tickets
}

// clientHost is where a member's client is, as Kafka shows it.
func clientHost(from *conn) string {
	host, _, err := net.SplitHostPort(from.nc.RemoteAddr().String())
	if err != nil {
		host = from.nc.RemoteAddr().String()
	}
	return "/" + host
}

const maxInstanceIDBytes = 249 // as for topic names, which Kafka's clients check it like

func joinRequest(req *kmsg.JoinGroupRequest, from *conn) *group.JoinRequest {
	r := &group.JoinRequest{
		MemberID: req.MemberID, Instance: text(req.InstanceID),
		NeedsKnownID: req.Version >= 4, CanSkip: req.Version >= 9,
		ClientID: from.clientID, Host: clientHost(from),
		Session:      time.Duration(req.SessionTimeoutMillis) * time.Millisecond,
		Rebalance:    time.Duration(req.RebalanceTimeoutMillis) * time.Millisecond,
		ProtocolType: req.ProtocolType,
	}
	if req.Version == 0 {
		r.Rebalance = r.Session
	}
	for i := range req.Protocols { // copied, so that a member does not keep the whole frame
		p := &req.Protocols[i]
		r.Protocols = append(r.Protocols, group.Protocol{Name: p.Name, Metadata: bytes.Clone(p.Metadata)})
	}
	if r.MemberID == "" {
		r.NewMemberID = newMemberID(r.Instance, r.ClientID)
	}
	return r
}

// newMemberID is random, and tells a person whose it is.
func newMemberID(instance, clientID string) string {
	prefix := instance
	if prefix == "" {
		prefix = clientID[:min(len(clientID), 64)]
	}
	var u [16]byte
	rand.Read(u[:]) // never fails
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%s-%x-%x-%x-%x-%x", prefix, u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
