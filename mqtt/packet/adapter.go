package packet

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	mochi "github.com/mochi-mqtt/server/v2/packets"
)

// decode runs mochi's decoder over a private copy of the frame's body. Its strings alias what it is given,
// and the read buffer is about to be reused; its panics are an attacker's to trigger, so they end here.
func decode(f Frame, version byte, run func(*mochi.Packet, []byte) error) (pk *mochi.Packet, err error) {
	defer func() {
		if r := recover(); r != nil {
			pk, err = nil, &Error{MalformedPacket, fmt.Sprintf("%s: %v", f.Type(), r)}
		}
	}()
	pk = &mochi.Packet{ProtocolVersion: version}
	pk.FixedHeader.Type = byte(f.Type())
	pk.FixedHeader.Qos = f.Header >> 1 & 3
	pk.FixedHeader.Remaining = len(f.Body)
	if err := run(pk, bytes.Clone(f.Body)); err != nil {
		return nil, asError(err)
	}
	return pk, nil
}

// asError keeps mochi's reason code where it gave one.
func asError(err error) error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	var code mochi.Code
	if errors.As(err, &code) && code.Code >= 0x80 {
		return &Error{Reason(code.Code), code.Reason}
	}
	return &Error{MalformedPacket, err.Error()}
}

// DecodeConnect decodes CONNECT. A protocol it does not speak is ErrVersion, told from the first bytes, so
// that a client of a later version gets the answer meant for it and not a complaint about its layout.
func DecodeConnect(f Frame) (*Connect, error) {
	version, willExpiry, err := checkConnect(f.Body)
	if err != nil {
		return nil, err
	}
	pk, err := decode(f, version, (*mochi.Packet).ConnectDecode)
	if err != nil {
		return nil, err
	}
	in := &pk.Connect
	c := &Connect{
		Version: version, CleanStart: in.Clean, KeepAlive: in.Keepalive, ClientID: in.ClientIdentifier,
		HasUserName: in.UsernameFlag, HasPassword: in.PasswordFlag, UserName: string(in.Username), Password: in.Password,
		SessionExpiry: pk.Properties.SessionExpiryInterval, ReceiveMaximum: pk.Properties.ReceiveMaximum,
		MaxPacket: pk.Properties.MaximumPacketSize, AliasMaximum: pk.Properties.TopicAliasMaximum,
		NoProblemInfo:   pk.Properties.RequestProblemInfoFlag && pk.Properties.RequestProblemInfo == 0,
		RequestResponse: pk.Properties.RequestResponseInfo == 1,
		AuthMethod:      pk.Properties.AuthenticationMethod, AuthData: pk.Properties.AuthenticationData,
		User: userProperties(pk.Properties.User),
	}
	if in.WillFlag {
		if c.Will, err = adaptWill(in, willExpiry); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func adaptWill(in *mochi.ConnectParams, hasExpiry bool) (*Will, error) {
	p := &in.WillProperties
	w := &Will{
		Topic: in.WillTopic, Payload: in.WillPayload, QoS: in.WillQos, Retain: in.WillRetain,
		Delay: p.WillDelayInterval, HasExpiry: hasExpiry, Expiry: p.MessageExpiryInterval, PayloadFormat: p.PayloadFormat,
		Correlation: p.CorrelationData, User: userProperties(p.User),
	}
	if p.ContentType != "" {
		w.ContentType = []byte(p.ContentType)
	}
	if p.ResponseTopic != "" {
		if w.ResponseTopic = []byte(p.ResponseTopic); hasWildcard(w.ResponseTopic) {
			return nil, errRespWild
		}
	}
	if !ValidTopic(w.Topic) {
		return nil, errTopicWild
	}
	return w, nil
}

// checkConnect walks the layout of CONNECT with our own bounds before mochi sees it, and checks what mochi
// leaves to its server: flags that contradict each other, repeated properties, bytes after the last field.
func checkConnect(b []byte) (version byte, willExpiry bool, err error) {
	name, b, err := readString(b)
	if err != nil {
		return 0, false, err
	}
	if len(b) < 4 {
		return 0, false, errField
	}
	version = b[0]
	if string(name) != "MQTT" || version != V311 && version != V5 {
		return 0, false, ErrVersion // MQTT5 [MQTT-3.1.2-1] [MQTT-3.1.2-2]
	}
	flags := b[1]
	b = b[4:] // protocol level, flags, keep alive
	if err := checkConnectFlags(flags, version); err != nil {
		return 0, false, err
	}
	if version == V5 {
		if b, err = checkProps(CONNECT, b); err != nil {
			return 0, false, err
		}
	}
	if _, b, err = readString(b); err != nil { // MQTT5 [MQTT-3.1.3-4]
		return 0, false, err
	}
	if flags&flagWill != 0 {
		if b, willExpiry, err = checkWill(b, version); err != nil {
			return 0, false, err
		}
	}
	if flags&flagUserName != 0 {
		if _, b, err = readString(b); err != nil { // MQTT5 [MQTT-3.1.3-12]
			return 0, false, err
		}
	}
	if flags&flagPassword != 0 {
		if _, b, err = readBytes(b); err != nil {
			return 0, false, err
		}
	}
	if len(b) > 0 {
		return 0, false, errTrailing
	}
	return version, willExpiry, nil
}

const (
	flagReserved   = 1
	flagWill       = 1 << 2
	flagWillRetain = 1 << 5
	flagPassword   = 1 << 6
	flagUserName   = 1 << 7
)

func checkConnectFlags(flags, version byte) error {
	willQoS := flags >> 3 & 3
	switch {
	case flags&flagReserved != 0: // MQTT5 [MQTT-3.1.2-3]
		return errFlags
	case flags&flagWill == 0 && (willQoS != 0 || flags&flagWillRetain != 0): // MQTT5 [MQTT-3.1.2-11] [MQTT-3.1.2-13]
		return errFlags
	case willQoS == 3: // MQTT5 [MQTT-3.1.2-12]
		return errQoS
	case version == V311 && flags&flagUserName == 0 && flags&flagPassword != 0: // MQTT3 [MQTT-3.1.2-22]
		return errFlags
	}
	return nil
}

func checkWill(b []byte, version byte) (rest []byte, hasExpiry bool, err error) {
	if version == V5 {
		list, after, err := openProps(willProps, b)
		if err != nil {
			return nil, false, err
		}
		var q property
		for more := true; more; {
			if more, err = list.next(&q); err != nil {
				return nil, false, err
			}
			hasExpiry = hasExpiry || more && q.id == propExpiry
		}
		b = after
	}
	if _, b, err = readString(b); err != nil { // MQTT5 [MQTT-3.1.3-11]
		return nil, false, err
	}
	_, rest, err = readBytes(b)
	return rest, hasExpiry, err
}

// DecodeSubscribe decodes SUBSCRIBE. Filters come as sent; ParseFilter judges them.
func DecodeSubscribe(f Frame, version byte) (*Subscribe, error) {
	if err := checkFilters(f, version, true); err != nil {
		return nil, err
	}
	pk, err := decode(f, version, (*mochi.Packet).SubscribeDecode)
	if err != nil {
		return nil, err
	}
	s := &Subscribe{PacketID: pk.PacketID, Filters: make([]Subscription, len(pk.Filters))}
	if ids := pk.Properties.SubscriptionIdentifier; len(ids) > 0 {
		s.ID = uint32(ids[0])
	}
	for i := range pk.Filters {
		in := &pk.Filters[i]
		s.Filters[i] = Subscription{
			Filter: in.Filter, QoS: in.Qos, NoLocal: in.NoLocal, RetainAsPublished: in.RetainAsPublished,
			RetainHandling: in.RetainHandling,
		}
	}
	return s, nil
}

// DecodeUnsubscribe decodes UNSUBSCRIBE.
func DecodeUnsubscribe(f Frame, version byte) (*Unsubscribe, error) {
	if err := checkFilters(f, version, false); err != nil {
		return nil, err
	}
	pk, err := decode(f, version, (*mochi.Packet).UnsubscribeDecode)
	if err != nil {
		return nil, err
	}
	u := &Unsubscribe{PacketID: pk.PacketID, Filters: make([]string, len(pk.Filters))}
	for i := range pk.Filters {
		u.Filters[i] = pk.Filters[i].Filter
	}
	return u, nil
}

// checkFilters walks SUBSCRIBE and UNSUBSCRIBE, which differ in the options byte alone. The codec behind the
// adapter reads that byte without looking whether it is there.
func checkFilters(f Frame, version byte, options bool) (err error) {
	b := f.Body
	if len(b) < 2 {
		return errField
	}
	if b[0] == 0 && b[1] == 0 {
		return errPacketID // MQTT5 [MQTT-2.2.1-3]
	}
	b = b[2:]
	if version == V5 {
		if b, err = checkProps(f.Type(), b); err != nil {
			return err
		}
	}
	if len(b) == 0 {
		return &Error{ProtocolError, "no topic filter"} // MQTT5 [MQTT-3.8.3-2] [MQTT-3.10.3-2]
	}
	for len(b) > 0 {
		if _, b, err = readString(b); err != nil { // MQTT5 [MQTT-3.8.3-1] [MQTT-3.10.3-1]
			return err
		}
		if !options {
			continue
		}
		if len(b) < 1 {
			return errField
		}
		if err := checkSubOptions(b[0], version); err != nil {
			return err
		}
		b = b[1:]
	}
	return nil
}

func checkSubOptions(o, version byte) error {
	switch {
	case o&3 == 3:
		return errQoS // MQTT3 [MQTT-3.8.3-4]
	case version == V311 && o&0xfc != 0, o&0xc0 != 0:
		return errFlags // MQTT5 [MQTT-3.8.3-5]
	case o>>4&3 == 3:
		return &Error{ProtocolError, "retain handling 3 does not exist"}
	}
	return nil
}

// DecodeDisconnect decodes a client's DISCONNECT.
func DecodeDisconnect(f Frame, version byte) (*Disconnect, error) {
	if version != V5 || len(f.Body) == 0 {
		if len(f.Body) > 0 {
			return nil, errTrailing
		}
		return &Disconnect{}, nil
	}
	if len(f.Body) == 1 { // mochi skips the reason code of a one-byte body
		return checkDisconnect(&Disconnect{Reason: Reason(f.Body[0])})
	}
	if rest, err := checkProps(DISCONNECT, f.Body[1:]); err != nil || len(rest) > 0 {
		return nil, errors.Join(err, trailing(rest))
	}
	pk, err := decode(f, version, (*mochi.Packet).DisconnectDecode)
	if err != nil {
		return nil, err
	}
	return checkDisconnect(&Disconnect{
		Reason: Reason(pk.ReasonCode), ReasonString: pk.Properties.ReasonString,
		HasExpiry: pk.Properties.SessionExpiryIntervalFlag, SessionExpiry: pk.Properties.SessionExpiryInterval,
	})
}

// clientDisconnect lists the reasons of MQTT 5 table 3-10 that a client may send.
var clientDisconnect = []Reason{Success, DisconnectWithWill, UnspecifiedError, MalformedPacket, ProtocolError,
	ImplementationSpecificError, TopicNameInvalid, ReceiveMaximumExceeded, TopicAliasInvalid, PacketTooLarge,
	MessageRateTooHigh, QuotaExceeded, AdministrativeAction, PayloadFormatInvalid}

func checkDisconnect(d *Disconnect) (*Disconnect, error) {
	if !slices.Contains(clientDisconnect, d.Reason) {
		return nil, errAckReason // MQTT5 [MQTT-3.14.2-1]
	}
	return d, nil
}

// DecodeAuth decodes AUTH, which exists in MQTT 5 only.
func DecodeAuth(f Frame) (*Auth, error) {
	if len(f.Body) == 0 { // MQTT5 §3.15.2.1: reason and properties may be left out for Success
		return &Auth{}, nil
	}
	if len(f.Body) < 2 {
		return nil, errField
	}
	if rest, err := checkProps(AUTH, f.Body[1:]); err != nil || len(rest) > 0 {
		return nil, errors.Join(err, trailing(rest))
	}
	pk, err := decode(f, V5, (*mochi.Packet).AuthDecode)
	if err != nil {
		return nil, err
	}
	switch r := Reason(pk.ReasonCode); r {
	case Success, ContinueAuthentication, ReAuthenticate:
		return &Auth{r, pk.Properties.AuthenticationMethod, pk.Properties.AuthenticationData}, nil
	default:
		return nil, errAckReason // MQTT5 [MQTT-3.15.2-1]
	}
}

func trailing(rest []byte) error {
	if len(rest) > 0 {
		return errTrailing
	}
	return nil
}

// AppendConnack encodes CONNACK for a client of the given version.
func AppendConnack(dst []byte, c *Connack, version byte) []byte {
	pk := &mochi.Packet{ProtocolVersion: version, SessionPresent: c.SessionPresent, ReasonCode: byte(c.Reason)}
	if version != V5 {
		pk.ReasonCode = c.Reason.ConnackV311()
		return encode(dst, CONNACK, pk, (*mochi.Packet).ConnackEncode)
	}
	pk.Properties = mochi.Properties{
		SessionExpiryInterval: c.SessionExpiry, SessionExpiryIntervalFlag: c.HasExpiry, ReasonString: c.ReasonString,
		ReceiveMaximum: c.ReceiveMaximum, MaximumPacketSize: c.MaxPacket, TopicAliasMaximum: c.AliasMaximum,
		ServerKeepAlive: c.KeepAlive, ServerKeepAliveFlag: c.Reason == Success, AssignedClientID: c.AssignedID,
		ResponseInfo: c.ResponseInfo, AuthenticationMethod: c.AuthMethod, AuthenticationData: c.AuthData,
		SharedSubAvailableFlag: c.NoSharedSubs, RetainAvailableFlag: c.NoRetain, ServerReference: c.ServerReference,
	}
	pk.Mods.AllowResponseInfo = c.ResponseInfo != ""
	return encode(dst, CONNACK, pk, (*mochi.Packet).ConnackEncode)
}

// AppendSuback encodes SUBACK. For 3.1.1 every refusal becomes 0x80, the only one it knows.
func AppendSuback(dst []byte, id uint16, codes []Reason, version byte) []byte {
	pk := &mochi.Packet{ProtocolVersion: version, PacketID: id, ReasonCodes: make([]byte, len(codes))}
	for i, c := range codes {
		if version != V5 && c >= UnspecifiedError {
			c = UnspecifiedError // MQTT3 [MQTT-3.9.3-2]
		}
		pk.ReasonCodes[i] = byte(c)
	}
	return encode(dst, SUBACK, pk, (*mochi.Packet).SubackEncode)
}

// AppendUnsuback encodes UNSUBACK; 3.1.1 has no reason codes there.
func AppendUnsuback(dst []byte, id uint16, codes []Reason, version byte) []byte {
	pk := &mochi.Packet{ProtocolVersion: version, PacketID: id, ReasonCodes: make([]byte, len(codes))}
	for i, c := range codes {
		pk.ReasonCodes[i] = byte(c)
	}
	return encode(dst, UNSUBACK, pk, (*mochi.Packet).UnsubackEncode)
}

// AppendDisconnect encodes a server's DISCONNECT, which exists in MQTT 5 only: for 3.1.1 nothing is added,
// since [MQTT-3.14] of that version gives the packet to the client alone.
func AppendDisconnect(dst []byte, d *Disconnect, version byte) []byte {
	if version != V5 {
		return dst
	}
	pk := &mochi.Packet{ProtocolVersion: version, ReasonCode: byte(d.Reason)}
	pk.Properties = mochi.Properties{ReasonString: d.ReasonString, ServerReference: d.ServerReference}
	return encode(dst, DISCONNECT, pk, (*mochi.Packet).DisconnectEncode)
}

// AppendAuth encodes AUTH.
func AppendAuth(dst []byte, a *Auth) []byte {
	pk := &mochi.Packet{ProtocolVersion: V5, ReasonCode: byte(a.Reason)}
	pk.Properties = mochi.Properties{AuthenticationMethod: a.Method, AuthenticationData: a.Data}
	return encode(dst, AUTH, pk, (*mochi.Packet).AuthEncode)
}

func encode(dst []byte, t Type, pk *mochi.Packet, run func(*mochi.Packet, *bytes.Buffer) error) []byte {
	pk.FixedHeader.Type = byte(t)
	var buf bytes.Buffer
	if err := run(pk, &buf); err != nil {
		panic(fmt.Sprintf("BUG: encode %s: %v", t, err))
	}
	return append(dst, buf.Bytes()...)
}

func userProperties(in []mochi.UserProperty) []UserProperty {
	if len(in) == 0 {
		return nil
	}
	out := make([]UserProperty, len(in))
	for i, u := range in {
		out[i] = UserProperty{[]byte(u.Key), []byte(u.Val)}
	}
	return out
}
