package uplink

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/log"
)

// downWindow is how many messages the broker may send before the first of them is committed here.
const downWindow = 64

// mqtt takes what matches a filter down, at least once: the broker keeps the session while this cluster is away, and hears of a message when it is committed here.
func (d *down) mqtt(ctx context.Context) error {
	if err := d.open(); err != nil {
		return err
	}
	stop := make(chan struct{})
	arrived := make(chan *packets.Publish, downWindow)
	granted := make(chan byte, 1)
	t := newMQTTTarget(&d.f.Config, d.f.Cluster, d.f.Site, 0, d.logger.Warn)
	conn, err := dialMQTT(ctx, &d.f.Config, d.f.dial, mqttSession{clientID: d.clientID(), keep: true, window: downWindow}, &t.written, func(p *packets.ControlPacket) error {
		switch p := p.Content.(type) {
		case *packets.Publish:
			select {
			case arrived <- p: // the broker keeps to the window; with QoS 0 it waits here
			case <-stop:
			}
			return nil
		case *packets.Suback:
			if len(p.Reasons) != 1 || len(granted) > 0 {
				return errors.New("the broker answers a subscription that nobody has asked for")
			}
			granted <- p.Reasons[0]
			return nil
		}
		return fmt.Errorf("the broker sends %s, for which nobody has asked", p.PacketType())
	})
	if err != nil {
		return err
	}
	defer conn.close()
	defer close(stop)
	if !conn.resumed && d.state.At > 0 {
		d.logger.Warn("the broker has lost the session: what was published since is not known", "filter", d.cfg.From, "since", time.UnixMilli(d.state.At))
	}
	// The retained messages come once, when the subscription is made, and each says whether it is one.
	sub := &packets.Subscribe{PacketID: 1, Properties: &packets.Properties{}, Subscriptions: []packets.SubOptions{{Topic: d.cfg.From, QoS: 1, RetainAsPublished: true, RetainHandling: 1}}}
	if err := conn.send(ctx, sub, true); err != nil {
		return err
	}
	patience := time.NewTimer(deliveryTimeout)
	defer patience.Stop()
	look := time.NewTicker(downLook)
	defer look.Stop()
	for !d.f.isPaused() {
		select {
		case code := <-granted:
			if code >= 0x80 {
				return &mqttReason{"refuses the subscription to " + d.cfg.From, code, ""}
			}
			if code == 0 {
				return fmt.Errorf("the broker grants %s with QoS 0 only, of which nobody knows whether anything was lost", d.cfg.From)
			}
			patience.Stop()
			if err := d.save(ctx); err != nil {
				return err
			}
			d.told(nil)
		case p := <-arrived:
			if err := d.takeMessages(ctx, conn, p, arrived); err != nil {
				return err
			}
		case <-look.C:
		case <-patience.C:
			return fmt.Errorf("the broker has not answered the subscription to %s for %s", d.cfg.From, deliveryTimeout)
		case <-conn.ended:
			return conn.cause()
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// clientID belongs to the filter: a session keeps its subscriptions, and another filter is not to inherit them.
func (d *down) clientID() string {
	return fmt.Sprintf("weir-uplink-%s-%s-down-%08x", d.f.Cluster, d.f.Config.Name, crc32.ChecksumIEEE([]byte(d.cfg.From)))
}

// takeMessages has a message committed, with those that wait behind it, and then tells the broker, in their order.
func (d *down) takeMessages(ctx context.Context, conn *mqttConn, first *packets.Publish, more <-chan *packets.Publish) error {
	taken := []*packets.Publish{first}
	for len(taken) < downWindow && len(more) > 0 {
		taken = append(taken, <-more)
	}
	var all []arrival
	for _, p := range taken {
		if d.messageGoesRound(p) {
			d.skip()
			continue
		}
		all = append(all, d.fromMQTT(p, time.Now()))
	}
	if err := d.put(ctx, all); err != nil {
		return fmt.Errorf("write to %s here: %w", d.cfg.Topic, err)
	}
	for _, p := range taken {
		if p.QoS == 0 {
			continue
		}
		if err := conn.send(ctx, &packets.Puback{PacketID: p.PacketID, Properties: &packets.Properties{}}, false); err != nil {
			return err
		}
	}
	return conn.flush(ctx)
}

func (d *down) messageGoesRound(p *packets.Publish) bool {
	for _, u := range p.Properties.User {
		if u.Key == OriginHeader && d.own(u.Value) {
			return true
		}
	}
	return false
}

// fromMQTT is a message as it stands here: with the headers that the mqtt room would give it. Its key is its topic, so that what is published there stays in order.
func (d *down) fromMQTT(p *packets.Publish, now time.Time) arrival {
	a := arrival{Record: log.Record{Timestamp: now.UnixMilli(), Key: []byte(p.Topic), Value: p.Payload, Headers: make([]log.Header, 2, len(p.Properties.User)+9)}, retain: p.Retain || d.cfg.Retain}
	add := func(name, value string) {
		a.Headers = append(a.Headers, log.Header{Key: []byte(name), Value: []byte(value)})
	}
	props := p.Properties
	if props.ContentType != "" {
		add(headerContentType, props.ContentType)
	}
	if props.ResponseTopic != "" {
		add(headerResponseTopic, props.ResponseTopic)
	}
	if props.CorrelationData != nil {
		add(headerCorrelation, string(props.CorrelationData))
	}
	if props.PayloadFormat != nil && *props.PayloadFormat == 1 {
		add(headerPayloadFormat, "1")
	}
	if props.MessageExpiry != nil {
		add(headerExpiry, strconv.FormatInt(now.UnixMilli()+int64(*props.MessageExpiry)*1000, 10))
	}
	add(headerQoS, strconv.Itoa(int(p.QoS)))
	for _, u := range props.User {
		add(u.Key, u.Value)
	}
	given := log.Record{Key: a.Key, Headers: []log.Header{{Key: []byte(headerTopic), Value: []byte(p.Topic)}}}
	d.head(&a, &given, []byte(d.f.via()))
	return a
}

// filterFault says why text is no topic filter, "" when it is one (MQTT 5 §4.7.1).
func filterFault(filter string) string {
	if filter == "" || len(filter) > maxMQTTString || !plainText([]byte(filter)) {
		return "it is empty, too long or no plain text"
	}
	if strings.HasPrefix(filter, "$share/") {
		return "others would get a part of it"
	}
	levels := strings.Split(filter, "/")
	for i, l := range levels {
		if l == "#" && i == len(levels)-1 || l == "+" {
			continue
		}
		if strings.ContainsAny(l, "+#") {
			return "a wildcard stands alone in its level, and # in the last"
		}
	}
	return ""
}
