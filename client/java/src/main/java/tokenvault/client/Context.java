package tokenvault.client;

import tokenvault.v1.ConsumerContext;
import tokenvault.v1.ConversationContext;

/** Whose tokens are meant, within a brand. Its text names the kind only: ids of people belong in no log. */
public final class Context {
  final tokenvault.v1.Context wire;

  private Context(tokenvault.v1.Context wire) {
    this.wire = wire;
  }

  /** The consumer with this id at the bot platform, which has authenticated it. */
  public static Context consumer(String id) {
    var kind = ConsumerContext.newBuilder().setConsumerId(id);
    return new Context(tokenvault.v1.Context.newBuilder().setConsumer(kind).build());
  }

  /** One chat between a consumer and a bot. */
  public static Context conversation(String id) {
    var kind = ConversationContext.newBuilder().setConversationId(id);
    return new Context(tokenvault.v1.Context.newBuilder().setConversation(kind).build());
  }

  static Context of(tokenvault.v1.Context wire) {
    return new Context(wire);
  }

  /** The consumer's id, empty for a conversation. */
  public String consumerId() {
    return wire.getConsumer().getConsumerId();
  }

  /** The conversation's id, empty for a consumer. */
  public String conversationId() {
    return wire.getConversation().getConversationId();
  }

  @Override
  public String toString() {
    return wire.hasConsumer() ? "a consumer" : "a conversation";
  }
}
