package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
)

// ApiVersions (key 18): v0–5
//
// Lists the table of keys.go, and the feature transaction.version, which says that transactions may be of version 2 (KIP-890). The list is shared by
// all answers, which only read it. A version we do not know is answered in version 0 with
// UNSUPPORTED_VERSION and our own range (KIP-511), by conn.go before the body is decoded,
// because only the header of such a request can be read.
//
//	v3  client software name and version, which must match Kafka's pattern; flexible,
//	    but the response header never is, since the client cannot know yet
//	v4  supported features with a minimum of 0, which earlier clients do not take (KAFKA-17011)
//	v5  whom the client takes us for (KIP-1242): where an address has come to be another broker's, or another
//	    cluster's, REBOOTSTRAP_REQUIRED sends it back to the addresses that it began with
func (s *Server) apiVersions(_ context.Context, c *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.ApiVersionsRequest)
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.Version = req.Version
	if req.Version >= 3 {
		if !validSoftware(req.ClientSoftwareName) || !validSoftware(req.ClientSoftwareVersion) {
			resp.ErrorCode = errInvalidRequest
			return resp, nil
		}
		if resp.ErrorCode = s.checkIdentity(req); resp.ErrorCode != errNone {
			return resp, nil
		}
		c.software = req.ClientSoftwareName + " " + req.ClientSoftwareVersion
	}
	resp.ApiKeys = s.listed
	if req.Version >= 4 {
		resp.SupportedFeatures = []kmsg.ApiVersionsResponseSupportedFeature{{Name: transactionVersion, MinVersion: 0, MaxVersion: txn.V2}}
	}
	resp.FinalizedFeaturesEpoch = 0 // they do not change
	resp.FinalizedFeatures = []kmsg.ApiVersionsResponseFinalizedFeature{{Name: transactionVersion, MinVersionLevel: txn.V2, MaxVersionLevel: txn.V2}}
	return resp, nil
}

// transactionVersion is the one feature of Kafka's that clients look for.
const transactionVersion = "transaction.version"

// checkIdentity compares whom the client expects with who we are; earlier versions have nobody.
func (s *Server) checkIdentity(req *kmsg.ApiVersionsRequest) int16 {
	switch {
	case req.ClusterID == nil && req.NodeID == -1:
		return errNone
	case req.ClusterID == nil || req.NodeID == -1:
		return errInvalidRequest
	case *req.ClusterID != s.broker.ClusterID() || req.NodeID != s.broker.NodeID():
		return errRebootstrapRequired
	}
	return errNone
}

// unknownApiVersions is the answer to a version of ApiVersions that is not served.
func (s *Server) unknownApiVersions() kmsg.Response {
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.ErrorCode = errUnsupportedVersion
	a := s.apis[18]
	resp.ApiKeys = []kmsg.ApiVersionsResponseApiKey{{ApiKey: 18, MinVersion: a.min, MaxVersion: a.max}}
	return resp
}

// validSoftware is Kafka's [a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?
func validSoftware(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for i := range len(s) {
		b := s[i]
		alnum := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
		if !alnum && (i == 0 || i == len(s)-1 || b != '-' && b != '.') {
			return false
		}
	}
	return true
}
