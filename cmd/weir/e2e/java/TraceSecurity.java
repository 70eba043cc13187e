import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ScramCredentialInfo;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.clients.admin.UserScramCredentialUpsertion;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclBindingFilter;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.quota.ClientQuotaAlteration;
import org.apache.kafka.common.quota.ClientQuotaEntity;
import org.apache.kafka.common.quota.ClientQuotaFilter;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;

/**
 * Sets a user, a quota and rules as an operator who logs in with PLAIN, and lists topics as that user by SCRAM. Arguments: bootstrap, the operator and his password.
 */
public final class TraceSecurity {
    public static void main(String[] args) throws Exception {
        try (var admin = Admin.create(login(args[0], "PLAIN", "plain.PlainLoginModule", args[1], args[2]))) {
            admin.alterUserScramCredentials(List.of(new UserScramCredentialUpsertion("by-java", new ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), "java-secret"))).all().get();
            System.out.println("users " + admin.describeUserScramCredentials().users().get());
            admin.alterClientQuotas(List.of(new ClientQuotaAlteration(new ClientQuotaEntity(Map.of(ClientQuotaEntity.USER, "by-java")),
                    List.of(new ClientQuotaAlteration.Op("producer_byte_rate", 1e9))))).all().get();
            System.out.println("quotas " + admin.describeClientQuotas(ClientQuotaFilter.all()).entities().get());
            var rule = new AclBinding(new ResourcePattern(ResourceType.TOPIC, "by-java", PatternType.PREFIXED),
                    new AccessControlEntry("User:by-java", "*", AclOperation.ALL, AclPermissionType.ALLOW));
            admin.createAcls(List.of(rule)).all().get();
            System.out.println("rules " + admin.describeAcls(rule.toFilter()).values().get().size());
            System.out.println("deleted " + admin.deleteAcls(List.of(new AclBindingFilter(rule.pattern().toFilter(), rule.entry().toFilter()))).all().get().size());
        }
        try (var user = Admin.create(login(args[0], "SCRAM-SHA-512", "scram.ScramLoginModule", "by-java", "java-secret"))) {
            System.out.println("topics " + user.listTopics().names().get());
        }
        System.out.println("traced");
    }

    static Properties login(String bootstrap, String mechanism, String module, String user, String password) {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("security.protocol", "SASL_PLAINTEXT");
        p.put("sasl.mechanism", mechanism);
        p.put("sasl.jaas.config", "org.apache.kafka.common.security." + module + " required username=\"" + user + "\" password=\"" + password + "\";");
        return p;
    }
}
