import java.util.Hashtable;
import javax.naming.Context;
import javax.naming.NamingException;
import javax.naming.directory.InitialDirContext;

/** Logs in to the directory at this URL, and prints what its entry is described as. */
public class DirectoryClient {
    public static void main(String[] arguments) {
        var settings = new Hashtable<String, String>();
        settings.put(Context.INITIAL_CONTEXT_FACTORY, "com.sun.jndi.ldap.LdapCtxFactory");
        settings.put(Context.PROVIDER_URL, arguments[0]);
        settings.put(Context.SECURITY_PRINCIPAL, "cn=admin,dc=upstream,dc=test");
        settings.put(Context.SECURITY_CREDENTIALS, "pw");
        settings.put("com.sun.jndi.ldap.connect.timeout", "20000");
        settings.put("com.sun.jndi.ldap.read.timeout", "20000");
        try {
            var session = new InitialDirContext(settings);
            System.out.println(session.getAttributes("cn=box,dc=upstream,dc=test").get("description").get());
            session.close();
        } catch (NamingException error) {
            System.err.println(error);
            System.exit(1);
        }
    }
}
