package tokenvault

import (
	"fmt"
	"log/slog"
	"time"

	pb "tokenvault.example/client/go/tokenvault/v1"
)

// Context says whose tokens are meant, within a brand: made by Consumer or
// Conversation.
type Context struct{ wire *pb.Context }

// Consumer is the consumer with this id at the bot platform, which has
// authenticated it.
func Consumer(id string) Context {
	return Context{&pb.Context{Kind: &pb.Context_Consumer{Consumer: &pb.ConsumerContext{ConsumerId: id}}}}
}

// Conversation is one chat between a consumer and a bot.
func Conversation(id string) Context {
	return Context{&pb.Context{Kind: &pb.Context_Conversation{
		Conversation: &pb.ConversationContext{ConversationId: id},
	}}}
}

// ConsumerID is the consumer's id, empty for a conversation.
func (c Context) ConsumerID() string { return c.wire.GetConsumer().GetConsumerId() }

// ConversationID is the conversation's id, empty for a consumer.
func (c Context) ConversationID() string { return c.wire.GetConversation().GetConversationId() }

// String names the kind only: ids of people belong in no log.
func (c Context) String() string {
	switch c.wire.GetKind().(type) {
	case *pb.Context_Consumer:
		return "a consumer"
	case *pb.Context_Conversation:
		return "a conversation"
	}
	return "no context"
}

// GoString is String.
func (c Context) GoString() string { return c.String() }

// Delegation is what StartDelegation asks for. Brand and Context are needed.
type Delegation struct {
	Brand   string
	Context Context
	// Scopes to ask for; none: the brand's default.
	Scopes []string
	// RedirectURI is one of the brand's; empty: its first.
	RedirectURI string
	// ExpectedSubject must log in, where it is not empty. Consumers only.
	ExpectedSubject string `json:"-"`
	// AuthorizationParameters are more of them, as far as the brand allows.
	AuthorizationParameters map[string]string `json:"-"`
}

// String leaves out who is meant.
func (d Delegation) String() string {
	return fmt.Sprintf("delegation by %s to %s, scopes %v", d.Context, d.Brand, d.Scopes)
}

// GoString is String.
func (d Delegation) GoString() string { return d.String() }

// LogValue is String.
func (d Delegation) LogValue() slog.Value { return slog.StringValue(d.String()) }

// Challenge is what to show to the consumer.
type Challenge struct {
	// DelegationID names the delegation. Not a secret.
	DelegationID string
	// AuthorizationURL is for the consumer's browser, never for a log.
	AuthorizationURL string `json:"-"`
	// ExpireTime is when the link stops working.
	ExpireTime time.Time
}

// String leaves the link out.
func (c Challenge) String() string {
	return fmt.Sprintf("challenge %s, until %s", c.DelegationID, c.ExpireTime.Format(time.RFC3339))
}

// GoString is String.
func (c Challenge) GoString() string { return c.String() }

// LogValue is String.
func (c Challenge) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Delegated is what the consumer has delegated.
type Delegated struct {
	Brand         string
	Context       Context
	GrantedScopes []string
	// Subject is who logged in. Consumers only.
	Subject string `json:"-"`
	// AccessTokenExpireTime is zero where the authorization server did not say.
	AccessTokenExpireTime time.Time
	// SessionExpireTime is when the session ends unless used. Consumers only.
	SessionExpireTime time.Time
	// Confirmation is there where CompleteDelegation has locked the grant.
	Confirmation *Confirmation
}

// String leaves out who it was.
func (d Delegated) String() string {
	return fmt.Sprintf("delegated by %s to %s, scopes %v", d.Context, d.Brand, d.GrantedScopes)
}

// GoString is String.
func (d Delegated) GoString() string { return d.String() }

// LogValue is String.
func (d Delegated) LogValue() slog.Value { return slog.StringValue(d.String()) }

// Confirmation is for the page on which the consumer's login ends: the bot is
// told the code by the consumer, and brings it to ConfirmDelegation.
type Confirmation struct {
	// Code is a secret of the consumer's.
	Code string `json:"-"`
	// ExpireTime is when it stops working.
	ExpireTime time.Time
}

// String leaves the code out.
func (c Confirmation) String() string {
	return fmt.Sprintf("confirmation, until %s", c.ExpireTime.Format(time.RFC3339))
}

// GoString is String.
func (c Confirmation) GoString() string { return c.String() }

// LogValue is String.
func (c Confirmation) LogValue() slog.Value { return slog.StringValue(c.String()) }

// TokenRequest is what GetToken asks for. Brand and Context are needed.
type TokenRequest struct {
	Brand   string
	Context Context
	// Scopes the token must have, all of them granted; none: any.
	Scopes []string
	// MinTTL is the life the token must have left, up to an hour.
	MinTTL time.Duration
	// RejectedTokenVersion is that of a token the brand's API answered 401 to.
	RejectedTokenVersion string
	// IncludeIDToken asks for the id token as well, where policy allows it.
	IncludeIDToken bool
	// Challenge asks for a link where there is no token: it is the Error's.
	Challenge *ChallengeOptions
}

// ChallengeOptions is what such a link asks for. Both may be empty: the brand's.
type ChallengeOptions struct {
	Scopes      []string
	RedirectURI string
}

// Token is an access token that is valid now.
type Token struct {
	// AccessToken and IDToken are secrets.
	AccessToken string `json:"-"`
	IDToken     string `json:"-"`
	// TokenType is "Bearer".
	TokenType string
	// ExpireTime is when to stop using it; zero: use it until it is rejected.
	ExpireTime time.Time
	Scopes     []string
	// TokenVersion names this token set. Opaque; not a secret.
	TokenVersion string
	// Degraded: it has less life left than asked for, but cannot be renewed now.
	Degraded bool
}

// AuthorizationHeader is the value of the request header "Authorization".
func (t *Token) AuthorizationHeader() string { return t.TokenType + " " + t.AccessToken }

// String leaves the tokens out.
func (t Token) String() string {
	until := "rejected"
	if !t.ExpireTime.IsZero() {
		until = t.ExpireTime.Format(time.RFC3339)
	}
	return fmt.Sprintf("token of version %s, until %s", t.TokenVersion, until)
}

// GoString is String.
func (t Token) GoString() string { return t.String() }

// LogValue is String.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// Revocation is what becomes of forgotten tokens at the authorization server:
// "NOT_FOUND", "QUEUED" or "NOT_SUPPORTED".
type Revocation string

// What the sidecar answers to Invalidate.
const (
	RevocationNotFound     Revocation = "NOT_FOUND"
	RevocationQueued       Revocation = "QUEUED"
	RevocationNotSupported Revocation = "NOT_SUPPORTED"
)
