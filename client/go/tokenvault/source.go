package tokenvault

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"
)

const (
	margin = 30 * time.Second
	pause  = time.Second
)

// TokenSource gives a valid access token of one context: from memory, and from
// the sidecar only where the token is near its end or was rejected. However
// many goroutines ask, one call is made. While the sidecar cannot be reached
// the token that is held is given until its end. It is an oauth2.TokenSource.
type TokenSource struct {
	client *Client
	ask    TokenRequest
	flight singleflight.Group

	lock     sync.Mutex
	held     *Token
	askAt    time.Time // when to ask again; zero: not before it is rejected
	rejected string    // the version that was, until it is replaced
}

var _ oauth2.TokenSource = (*TokenSource)(nil)

// TokenSource is a source of one context's tokens, of these scopes if any.
// Keep it: the token is in it.
func (c *Client) TokenSource(brand string, whose Context, scopes ...string) *TokenSource {
	return &TokenSource{client: c, ask: TokenRequest{Brand: brand, Context: whose, Scopes: scopes}}
}

// Get gives the token. A caller whose context ends leaves; the call to the
// sidecar goes on for the others.
func (s *TokenSource) Get(ctx context.Context) (*Token, error) {
	if token := s.fresh(); token != nil {
		return token, nil
	}
	answer := s.flight.DoChan("", func() (any, error) { return s.renew(context.WithoutCancel(ctx)) })
	select {
	case got := <-answer:
		if got.Err != nil {
			return nil, got.Err
		}
		return got.Val.(*Token), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Reject says that the brand's API answered 401 to the token of this version:
// the next that is given is another.
func (s *TokenSource) Reject(version string) {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.held != nil && s.held.TokenVersion == version {
		s.held, s.rejected = nil, version
	}
}

// Token is Get for golang.org/x/oauth2; the token's extra "token_version" is
// what Reject takes.
func (s *TokenSource) Token() (*oauth2.Token, error) {
	token, err := s.Get(context.Background())
	if err != nil {
		return nil, err
	}
	plain := &oauth2.Token{AccessToken: token.AccessToken, TokenType: token.TokenType, Expiry: token.ExpireTime}
	return plain.WithExtra(map[string]any{"token_version": token.TokenVersion}), nil
}

// fresh is the held token, unless it is time to ask.
func (s *TokenSource) fresh() *Token {
	s.lock.Lock()
	defer s.lock.Unlock()
	now := time.Now()
	if s.held == nil || !s.held.lives(now) || !s.askAt.IsZero() && !now.Before(s.askAt) {
		return nil
	}
	return s.held
}

func (s *TokenSource) renew(ctx context.Context) (*Token, error) {
	if token := s.fresh(); token != nil { // came while this one was on its way here
		return token, nil
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	token, err := s.call(ctx)
	if err == nil && token.TokenVersion == s.rejected { // it was while the call was made
		token, err = s.call(ctx)
	}
	now := time.Now()
	if err != nil {
		unreached := errors.Is(err, ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
		if unreached && s.held != nil && s.held.lives(now) {
			s.askAt = now.Add(pause)
			return s.held, nil
		}
		return nil, err // kept for nobody: the next one asks again
	}
	s.held, s.rejected, s.askAt = token, "", askAt(token, now)
	return token, nil
}

// call is made without the lock, which the caller holds.
func (s *TokenSource) call(ctx context.Context) (*Token, error) {
	ask := s.ask
	ask.RejectedTokenVersion = s.rejected
	s.lock.Unlock()
	defer s.lock.Lock()
	return s.client.GetToken(ctx, ask)
}

// askAt is a margin before the token's end, smaller for a short life; and no
// sooner than after a pause for one that is inside it already, or degraded.
func askAt(token *Token, now time.Time) time.Time {
	soonest := now.Add(pause)
	if token.Degraded {
		return soonest
	}
	if token.ExpireTime.IsZero() {
		return time.Time{}
	}
	due := token.ExpireTime.Add(-min(margin, token.ExpireTime.Sub(now)/5))
	if due.Before(soonest) {
		return soonest
	}
	return due
}

func (t *Token) lives(now time.Time) bool { return t.ExpireTime.IsZero() || now.Before(t.ExpireTime) }
