package tokenvault

import (
	"context"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "tokenvault.example/client/go/tokenvault/v1"
)

const (
	callTimeout     = 10 * time.Second
	completeTimeout = 30 * time.Second // the code is exchanged
)

// Client calls a sidecar. One serves a whole program, and all its goroutines.
// A failed call gives an *Error.
type Client struct {
	config      Config
	connections *connections
}

// FromEnvironment is a client by the TOKENVAULT_* variables.
func FromEnvironment() (*Client, error) {
	config, err := ConfigFromEnvironment()
	if err != nil {
		return nil, err
	}
	return Dial(config)
}

// Dial makes a client. The files are read now, so that a wrong one is told at
// once; the connection is made at the first call, and again whenever it must.
func Dial(config Config) (*Client, error) {
	connections, err := open(config)
	if err != nil {
		return nil, err
	}
	return &Client{config, connections}, nil
}

// Close closes the connection. Calls under way fail.
func (c *Client) Close() error { return c.connections.close() }

// StartDelegation makes the challenge that asks a consumer for access.
func (c *Client) StartDelegation(ctx context.Context, d Delegation) (*Challenge, error) {
	answer, err := call(ctx, c, callTimeout, pb.TokenVaultClient.StartDelegation, &pb.StartDelegationRequest{
		BrandId:                 d.Brand,
		Context:                 d.Context.wire,
		Scopes:                  d.Scopes,
		RedirectUri:             d.RedirectURI,
		ExpectedSubject:         d.ExpectedSubject,
		AuthorizationParameters: d.AuthorizationParameters,
	})
	if err != nil {
		return nil, err
	}
	return &Challenge{answer.GetDelegationId(), answer.GetAuthorizationUrl(), instant(answer.GetExpireTime())}, nil
}

// CompleteDelegation takes the query that arrived at the redirect URI. Never
// repeat it once it was answered: a state works once.
func (c *Client) CompleteDelegation(ctx context.Context, query url.Values) (*Delegated, error) {
	answer, err := call(ctx, c, completeTimeout, pb.TokenVaultClient.CompleteDelegation, &pb.CompleteDelegationRequest{
		State:            query.Get("state"),
		Code:             query.Get("code"),
		Iss:              query.Get("iss"),
		Error:            query.Get("error"),
		ErrorDescription: query.Get("error_description"),
	})
	if err != nil {
		return nil, err
	}
	return delegated(answer), nil
}

// ConfirmDelegation unlocks a delegation with the code that its consumer was
// shown, as they typed it. Safe to repeat. ErrConfirmationCodeWrong where it is
// another, with TriesLeft.
func (c *Client) ConfirmDelegation(ctx context.Context, delegationID, code string) (*Delegated, error) {
	answer, err := call(ctx, c, callTimeout, pb.TokenVaultClient.ConfirmDelegation, &pb.ConfirmDelegationRequest{
		DelegationId: delegationID, ConfirmationCode: code,
	})
	if err != nil {
		return nil, err
	}
	return delegated(answer.GetDelegated()), nil
}

// GetToken gives a valid access token. Safe to repeat.
func (c *Client) GetToken(ctx context.Context, r TokenRequest) (*Token, error) {
	request := &pb.GetTokenRequest{
		BrandId:              r.Brand,
		Context:              r.Context.wire,
		Scopes:               r.Scopes,
		RejectedTokenVersion: r.RejectedTokenVersion,
		IncludeIdToken:       r.IncludeIDToken,
	}
	if c := r.Challenge; c != nil {
		request.Challenge = &pb.ChallengeOptions{Scopes: c.Scopes, RedirectUri: c.RedirectURI}
	}
	if r.MinTTL != 0 {
		request.MinTtl = durationpb.New(r.MinTTL)
	}
	answer, err := call(ctx, c, callTimeout, pb.TokenVaultClient.GetToken, request)
	if err != nil {
		return nil, err
	}
	return &Token{
		AccessToken:  answer.GetAccessToken(),
		IDToken:      answer.GetIdToken(),
		TokenType:    answer.GetTokenType(),
		ExpireTime:   instant(answer.GetExpireTime()),
		Scopes:       answer.GetScopes(),
		TokenVersion: answer.GetTokenVersion(),
		Degraded:     answer.GetDegraded(),
	}, nil
}

// Invalidate forgets a context: its tokens are deleted when this returns. Safe
// to repeat.
func (c *Client) Invalidate(ctx context.Context, brand string, whose Context) (Revocation, error) {
	answer, err := call(ctx, c, callTimeout, pb.TokenVaultClient.Invalidate, &pb.InvalidateRequest{BrandId: brand, Context: whose.wire})
	if err != nil {
		return "", err
	}
	return Revocation(strings.TrimPrefix(answer.GetRevocation().String(), "REVOCATION_")), nil
}

type rpc[Request, Response any] func(pb.TokenVaultClient, context.Context, *Request, ...grpc.CallOption) (*Response, error)

// call gives the call a deadline, where its context has none, and its error our type.
func call[Request, Response any](
	ctx context.Context, c *Client, timeout time.Duration, rpc rpc[Request, Response], request *Request,
) (*Response, error) {
	if c.config.Timeout != 0 {
		timeout = c.config.Timeout
	}
	ctx, cancel := within(ctx, timeout)
	defer cancel()
	connection, err := c.connections.use()
	if err != nil {
		return nil, err
	}
	defer connection.calls.Done()
	answer, err := rpc(connection.stub, ctx, request)
	if err != nil {
		return nil, errorFrom(err, c.config.Address)
	}
	return answer, nil
}

// within gives a context that has no deadline this one.
func within(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, timeout)
}

func delegated(answer *pb.CompleteDelegationResponse) *Delegated {
	done := &Delegated{
		Brand:                 answer.GetBrandId(),
		Context:               Context{answer.GetContext()},
		GrantedScopes:         answer.GetGrantedScopes(),
		Subject:               answer.GetSubject(),
		AccessTokenExpireTime: instant(answer.GetAccessTokenExpireTime()),
		SessionExpireTime:     instant(answer.GetSessionExpireTime()),
	}
	if c := answer.GetConfirmation(); c != nil {
		done.Confirmation = &Confirmation{c.GetCode(), instant(c.GetExpireTime())}
	}
	return done
}

func instant(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
