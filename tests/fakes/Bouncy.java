// The crypto library of the Direct reference implementation, as a peer: jobs on standard input.
//   encrypt CIPHER TRANSPORT definite|streamed IN OUT CERT...      TRANSPORT: pkcs1, sha1, sha256...
//   decrypt IN OUT CERT KEY           sign attached|detached IN OUT CERT KEY        verify IN OUT [CONTENT]
import java.io.*;
import java.nio.file.*;
import java.security.*;
import java.security.cert.*;
import java.security.spec.*;
import java.util.*;
import javax.crypto.spec.*;
import org.bouncycastle.asn1.*;
import org.bouncycastle.asn1.x509.AlgorithmIdentifier;
import org.bouncycastle.cert.*;
import org.bouncycastle.cert.jcajce.*;
import org.bouncycastle.cms.*;
import org.bouncycastle.cms.jcajce.*;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.operator.*;
import org.bouncycastle.operator.jcajce.*;

public class Bouncy {
  static final Map<String, ASN1ObjectIdentifier> CIPHERS = Map.of(
      "aes128_cbc", CMSAlgorithm.AES128_CBC, "aes256_cbc", CMSAlgorithm.AES256_CBC,
      "aes128_gcm", CMSAlgorithm.AES128_GCM, "aes256_gcm", CMSAlgorithm.AES256_GCM,
      "des3", CMSAlgorithm.DES_EDE3_CBC);

  public static void main(String[] none) throws Exception {
    Security.addProvider(new BouncyCastleProvider());
    BufferedReader jobs = new BufferedReader(new InputStreamReader(System.in));
    for (String line; (line = jobs.readLine()) != null; ) {
      try {
        run(line.split(" "));
        System.out.println("ok");
      } catch (Exception problem) {
        System.out.println("failed " + problem);
      }
      System.out.flush();
    }
  }

  static void run(String[] a) throws Exception {
    if (a[0].equals("encrypt")) {
      RecipientInfoGenerator[] to = new RecipientInfoGenerator[a.length - 6];
      for (int i = 0; i < to.length; i++) to[i] = recipient(certificate(a[6 + i]), a[2]);
      write(a[5], encrypt(CIPHERS.get(a[1]), a[1].endsWith("gcm"), a[3], read(a[4]), to));
    } else if (a[0].equals("decrypt")) {
      write(a[2], decrypt(read(a[1]), certificate(a[3]), key(a[4])));
    } else if (a[0].equals("sign")) {
      write(a[3], sign(a[1].equals("attached"), read(a[2]), certificate(a[4]), key(a[5])));
    } else {
      write(a[2], verify(read(a[1]), a.length > 3 ? read(a[3]) : null));
    }
  }

  static byte[] encrypt(ASN1ObjectIdentifier cipher, boolean gcm, String how, byte[] content,
      RecipientInfoGenerator[] to) throws Exception {
    OutputEncryptor encryptor = new JceCMSContentEncryptorBuilder(cipher).setProvider("BC").build();
    CMSTypedData data = new CMSProcessableByteArray(content);
    if (gcm) {
      CMSAuthEnvelopedDataGenerator made = new CMSAuthEnvelopedDataGenerator();
      for (RecipientInfoGenerator each : to) made.addRecipientInfoGenerator(each);
      return made.generate(data, (OutputAEADEncryptor) encryptor).getEncoded();
    }
    if (how.equals("streamed")) { // indefinite lengths, the content in pieces
      CMSEnvelopedDataStreamGenerator made = new CMSEnvelopedDataStreamGenerator();
      made.setBufferSize(1000);
      for (RecipientInfoGenerator each : to) made.addRecipientInfoGenerator(each);
      ByteArrayOutputStream out = new ByteArrayOutputStream();
      try (OutputStream in = made.open(out, encryptor)) {
        in.write(content);
      }
      return out.toByteArray();
    }
    CMSEnvelopedDataGenerator made = new CMSEnvelopedDataGenerator();
    for (RecipientInfoGenerator each : to) made.addRecipientInfoGenerator(each);
    return made.generate(data, encryptor).toASN1Structure().getEncoded(ASN1Encoding.DER);
  }

  static RecipientInfoGenerator recipient(X509Certificate to, String transport) throws Exception {
    if (transport.equals("pkcs1")) return new JceKeyTransRecipientInfoGenerator(to).setProvider("BC");
    String hash = "SHA-" + transport.substring(3);
    AlgorithmIdentifier oaep = new JcaAlgorithmParametersConverter().getAlgorithmIdentifier(
        org.bouncycastle.asn1.pkcs.PKCSObjectIdentifiers.id_RSAES_OAEP,
        new OAEPParameterSpec(hash, "MGF1", new MGF1ParameterSpec(hash), PSource.PSpecified.DEFAULT));
    return new JceKeyTransRecipientInfoGenerator(to, oaep).setProvider("BC");
  }

  static byte[] decrypt(byte[] whole, X509Certificate own, PrivateKey key) throws Exception {
    RecipientId id = new JceKeyTransRecipientId(own);
    boolean gcm = org.bouncycastle.asn1.cms.ContentInfo.getInstance(whole).getContentType()
        .equals(org.bouncycastle.asn1.cms.CMSObjectIdentifiers.authEnvelopedData);
    RecipientInformation mine = gcm
        ? new CMSAuthEnvelopedData(whole).getRecipientInfos().get(id)
        : new CMSEnvelopedData(whole).getRecipientInfos().get(id);
    Recipient by = gcm
        ? new JceKeyTransAuthEnvelopedRecipient(key).setProvider("BC")
        : new JceKeyTransEnvelopedRecipient(key).setProvider("BC");
    return mine.getContent(by);
  }

  static byte[] sign(boolean attached, byte[] content, X509Certificate own, PrivateKey key)
      throws Exception {
    CMSSignedDataGenerator made = new CMSSignedDataGenerator();
    ContentSigner signer = new JcaContentSignerBuilder("SHA256withRSA").setProvider("BC").build(key);
    made.addSignerInfoGenerator(new JcaSignerInfoGeneratorBuilder(
        new JcaDigestCalculatorProviderBuilder().setProvider("BC").build()).build(signer, own));
    made.addCertificates(new JcaCertStore(List.of(own)));
    return made.generate(new CMSProcessableByteArray(content), attached).getEncoded();
  }

  @SuppressWarnings("unchecked")
  static byte[] verify(byte[] whole, byte[] content) throws Exception {
    CMSSignedData signed = content == null
        ? new CMSSignedData(whole)
        : new CMSSignedData(new CMSProcessableByteArray(content), whole);
    for (SignerInformation one : signed.getSignerInfos().getSigners()) {
      X509CertificateHolder by = (X509CertificateHolder)
          signed.getCertificates().getMatches(one.getSID()).iterator().next();
      if (!one.verify(new JcaSimpleSignerInfoVerifierBuilder().setProvider("BC").build(by)))
        throw new SignatureException("does not hold");
    }
    return (byte[]) signed.getSignedContent().getContent();
  }

  static X509Certificate certificate(String path) throws Exception {
    return (X509Certificate) CertificateFactory.getInstance("X.509")
        .generateCertificate(new ByteArrayInputStream(read(path)));
  }

  static PrivateKey key(String path) throws Exception {
    return KeyFactory.getInstance("RSA").generatePrivate(new PKCS8EncodedKeySpec(read(path)));
  }

  static byte[] read(String path) throws IOException {
    return Files.readAllBytes(Path.of(path));
  }

  static void write(String path, byte[] content) throws IOException {
    Files.write(Path.of(path), content);
  }
}
